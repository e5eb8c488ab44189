"""What feedback says about an answer: estimates that are right on average, whatever was not said.

Feedback is partial (of the shown answer alone), rare (few people vote) and one-sided (more vote on bad
answers). Each function returns a number whose mean is the thing estimated, under the assumption that it
names.
"""

from __future__ import annotations

__all__ = ["gain_from_agreement", "gain_from_labels", "gain_from_vote", "right_from_vote"]


def right_from_vote(vote: bool | None, rate_up: float, rate_down: float) -> float:
    """Unbiased estimate of "the shown answer is right" from a vote: True up, False down, None no vote.

    `rate_up` is P(a vote | right answer) and `rate_down` P(a vote | wrong answer); voters are taken not to
    err. The mean of two Horvitz–Thompson estimates: up-votes / rate_up, and 1 − down-votes / rate_down. The
    result lies in [½ − ½/rate_down + ½·0, ½ + ½/rate_up], so it may be outside 0..1.

    Raises:
        ValueError: a rate outside (0, 1].
    """
    for name, rate in (("rate_up", rate_up), ("rate_down", rate_down)):
        if not 0 < rate <= 1:
            raise ValueError(f"{name} is the share of such answers that get a vote, in (0, 1], not {rate!r}")
    if vote is None:
        return 0.5
    return 0.5 / rate_up + 0.5 if vote else 0.5 - 0.5 / rate_down


def gain_from_labels(device_right: float, cloud_right: float, price: float) -> float:
    """Utility of escalating minus that of keeping: both answers judged (task success, a reference).

    `price` is latency and money in units of quality, as everywhere below.
    """
    return cloud_right - device_right - price


def gain_from_agreement(agree: bool, price: float, cloud_wins: float) -> float:
    """The same when both answered and nobody judged: where they agree, escalating gained nothing.

    `cloud_wins` is E[cloud right − device right | they differ], from labelled rows. Assumes that this mean
    holds for the answers that differ now.

    Raises:
        ValueError: `cloud_wins` outside −1..1.
    """
    if not -1 <= cloud_wins <= 1:
        raise ValueError(f"cloud_wins is a difference of probabilities (-1 to 1), not {cloud_wins!r}")
    return (0.0 if agree else cloud_wins) - price


def gain_from_vote(cloud_right: float, agree: bool, price: float, device_wins: float) -> float:
    """The same when both answered and the user judged the cloud's answer, which was shown.

    `cloud_right` is 0 or 1, or `right_from_vote`. Where the answers differ the device is wrong if the cloud
    is right, and right with probability `device_wins` = P(device right | they differ, cloud wrong) otherwise.
    Assumes that a query has one right answer.

    Raises:
        ValueError: `device_wins` outside 0..1.
    """
    if not 0 <= device_wins <= 1:
        raise ValueError(f"device_wins is a probability, not {device_wins!r}")
    if agree:
        return -price
    return cloud_right - (1 - cloud_right) * device_wins - price
