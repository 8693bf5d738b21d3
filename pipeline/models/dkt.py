"""Deep knowledge tracing over documents: Piech et al. 2015, "Deep knowledge tracing".

x_t   = e_{d_t} + k_{q_t}                      a document, and what became of it: viewed, passed over or clicked
h_t   = GRU(h_{t-1}, x_t)                      the user's state after it                                       (eq. 1)
s     = <e_ad, U h_t + u>                      how well the promoted document suits that                       (eq. 2)
logit = w_0 r_ad + <w, s>, within the display  r_ad: click rate of the ad                              (pipeline.choice)

The gated unit, in place of the paper's plain one, is that of Cho et al. 2014 (pipeline.collaborative.gru). The network
learns on each night (pipeline.collaborative.dkt) in the stage `collaborative`; s stands in the feature group `dkt`.
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
    return ChoiceModel("dkt", config)
