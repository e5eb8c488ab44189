"""Countries and the groups of them that rules may name.

Codes: ISO 3166-1 alpha-2. Groups: the member states of the European Union (Treaty on European Union, as of
2020-02-01) and of the European Economic Area (EEA Agreement: the EU with Iceland, Liechtenstein and Norway).
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["COUNTRIES", "GROUPS", "countries_of"]

_ISO_3166 = """
AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW
BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI
FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN
IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME
MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF
PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV
SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE
YT ZA ZM ZW
"""
_EU = """
AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK
"""

COUNTRIES = frozenset(_ISO_3166.split())

GROUPS: Mapping[str, frozenset[str]] = {
    "EU": frozenset(_EU.split()),
    "EEA": frozenset((*_EU.split(), "IS", "LI", "NO")),
}


def countries_of(code: str) -> frozenset[str]:
    """The countries that a code or a group stands for; empty for neither."""
    return GROUPS.get(code) or (frozenset({code}) if code in COUNTRIES else frozenset())
