#!/usr/bin/env bash
# System packages that the tests use, through apt. Needs root. All tests run without them or skip with a sentence:
#   zsh, fish   the completion scripts are parsed by the shells they are for
set -euo pipefail

packages=(zsh fish)
missing=()
for package in "${packages[@]}"; do
    dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q "install ok" || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
    echo "already there: ${packages[*]}"
    exit 0
fi
if [[ "$(id -u)" != 0 ]]; then
    echo "installing ${missing[*]} needs root: run it with sudo" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet --quiet || echo "apt-get update failed; trying with the lists that are there" >&2
if ! apt-get install --yes --quiet --quiet --no-install-recommends "${missing[@]}"; then
    echo "could not install ${missing[*]}: the tests that need them will say so and skip" >&2
fi
