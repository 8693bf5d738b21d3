"""How strong each part of the utility is (utility.py has the formula)."""

from __future__ import annotations

#: Standard deviations of the random effects and coefficients of the others, in log-odds.
EFFECTS = {
    "quality": 0.94,  # of the sum of the next five, over all impressions; these set its parts' proportions
    "advertiser": 0.45,
    "campaign": 0.55,
    "ad": 0.60,
    "popularity": 0.10,
    "age": 0.35,
    "drift": 0.20,
    "platform": 0.25,
    "country": 0.20,
    "state": 0.15,
    "daypart": 0.15,
    "publisher": 0.35,
    "source": 0.20,
    "section": 0.57,
    "match": 1.60,
    "page": 0.60,
    "seen": -0.40,
    "clicked": -1.20,
}
