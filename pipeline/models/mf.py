"""Matrix factorization: Hu, Koren, Volinsky 2008, "Collaborative filtering for implicit feedback datasets" (iALS).

x_u   = argmin sum_i c_ui (p_ui - <x_u, y_i>)^2 + reg |x_u|^2    the user, from the documents viewed before  (eq. 3, 4)
z     = <x_u, y_ad> - <mean x, y_ad>                             how much more it prefers the document than all users do
logit = w_0 r_ad + <w, z>, within the display                    r_ad: click rate of the ad           (pipeline.choice)

The factors are fitted each night (pipeline.collaborative.nightly) by the stage `collaborative`; z stands in the feature
group `mf`.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.choice import ChoiceConfig, ChoiceModel
from pipeline.models.base import Model, SearchSpace, Uniform


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(ChoiceConfig):
    """What ChoiceConfig says."""


SEARCH_SPACE: SearchSpace = {
    "strength": Uniform(low=1.0, high=100.0, log=True),
    "ridge": Uniform(low=0.1, high=1e3, log=True),
}


def build(config: Config) -> Model:
    return ChoiceModel("mf", config)
