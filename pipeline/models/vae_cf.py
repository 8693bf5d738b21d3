"""Mult-VAE: Liang et al. 2018, "Variational autoencoders for collaborative filtering".

z     ~ q(z | x) = N(mu(x), diag(sigma(x)^2))         the user's taste, from what it viewed before         (section 2.2)
pi(z) = softmax(W z + b), for each subject            topics, categories and sources of what it will view      (eq. 1)
s     = sum_a v_a (log pi_a(mu) - log popularity_a)   how much likelier the document's attributes are than for all
logit = w_0 r_ad + <w, s>, within the display         r_ad: click rate of the ad                      (pipeline.choice)

The network learns on each night (pipeline.collaborative.nightly_tastes) in the stage `collaborative`; s stands in the
feature group `vae_cf`, and with `collaborative.vae_cf.explore` it is made from a random draw of z.
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
    return ChoiceModel("vae_cf", config)
