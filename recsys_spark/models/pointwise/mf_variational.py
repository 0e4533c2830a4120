"""Matrix factorization with a distribution in place of every factor and bias, fitted by variational
inference.

Paper: Yew Jin Lim, Yee Whye Teh. Variational Bayesian Approach to Movie Rating Prediction. KDD Cup
and Workshop 2007 (the factorized posterior and its lower bound); the model is that of Andriy Mnih,
Ruslan Salakhutdinov. Probabilistic Matrix Factorization. NIPS 2007.
Differs: the bound is maximised by stochastic gradients over reparameterised samples instead of
closed-form updates; covariances within a row are diagonal; mean and biases as in mf_bias; the
biases also have distributions. Prior variances are learned, one for the factors and one for
the biases of each side; so is the noise. Predictions are clamped to the range of the training
labels.

The divergence from the prior is that of the whole tables, divided by the number of training
ratings: each row counts once, however often it occurs. It costs a pass over the tables in each
step, like the optimiser.

For: ratings, where the weights of the regularisers are to be learned instead of searched.
Needs: rated events.
Cold: a user or item without training events is predicted from the other side alone.
Not for: large tables: each step passes over all of them.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.batches.query import Query
from recsys_spark.core.config import Settings
from recsys_spark.models.base import Context, Model, Sizes, Term
from recsys_spark.nn.tables import products, table

_START = -2.0  # starting from the prior, samples would be so wide that the means learn slowly


class Posterior(nn.Module):
    """Independent normal distributions, one per row and column; column 0 is a bias.

    Row 0 is always at the prior; other rows start narrower, and rows absent from training move
    towards it.
    """

    def __init__(self, rows: int, dim: int, std: float) -> None:
        super().__init__()
        self.mean = table(rows, 1 + dim, std)
        self.ratio = table(rows, 1 + dim, 0.0)  # log of the variance over the prior's
        with torch.no_grad():
            self.mean.weight[:, 0] = 0.0
            self.ratio.weight[1:] = _START
        # Log variances: of the biases, of the factors
        self.prior = nn.Parameter(torch.full((2,), 2.0 * math.log(std)))

    def log_prior(self) -> Tensor:
        """(1 + D,)"""
        return torch.cat([self.prior[:1], self.prior[1:].expand(self.mean.embedding_dim - 1)])

    def variance(self, ratio: Tensor) -> Tensor:
        return (ratio + self.log_prior()).exp()

    def divergence(self) -> Tensor:
        """KL(posterior || prior), summed over all rows and columns."""
        squares = self.mean.weight.square() * (-self.log_prior()).exp()
        return 0.5 * (self.ratio.weight.exp() + squares - 1.0 - self.ratio.weight)[1:].sum()


class MfVariational(Model):
    """`predict` returns the mean of the predictive distribution as `rating` and its `variance`,
    which includes the noise.
    """

    layout = "pointwise"
    task = "rating"
    whole_tables = True  # the prior is over all rows

    class Config(Settings):
        dim: int = Field(64, ge=1)  # width of the factors
        init_std: float = Field(0.2, gt=0)  # of means and priors at the start

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.mean = sizes.statistics.get("label_mean", 0.0)
        self.ratings = sizes.statistic("label_count")
        self.user = Posterior(sizes.num_users, config.dim, config.init_std)
        self.item = Posterior(sizes.num_items, config.dim, config.init_std)
        self.log_precision = nn.Parameter(torch.zeros(()))  # of the noise

    def forward(self, batch: Rows, ctx: Context) -> dict[str, Tensor]:
        """The rating, (B,): in training, of a sample from the posterior, else the expected
        rating.
        """
        sides = []
        for name, side, index in (("user", self.user, batch.user), ("item", self.item, batch.item)):
            rows = side.mean(index)  # (B, 1 + D)
            if ctx.training:
                noise = ctx.normal(name, batch.row, rows.shape[1]).to(rows.dtype)
                # Reparameterised
                rows = rows + noise * (0.5 * (side.ratio(index) + side.log_prior())).exp()
            sides.append(rows)
        return {
            "rating": self.mean + _rating(*sides),
            "log_precision": self.log_precision,
            "divergence": self.user.divergence() + self.item.divergence(),
        }

    def loss(self, batch: Rows, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        """Minus the lower bound of the log likelihood, per rating."""
        weight = batch.weight.sum()
        squares = (output["rating"] - batch.label).square()
        log_precision = output["log_precision"]
        nll = 0.5 * (log_precision.exp() * squares - log_precision + math.log(2.0 * math.pi))
        return {
            "nll": Term((batch.weight * nll).sum(), weight),
            "kl": Term(weight * output["divergence"], weight, 1.0 / self.ratings),
        }

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        """Expected ratings: under independent distributions, the rating of the means."""
        p = self.user.mean(query.user)  # (B, 1 + D)
        q = self.item.mean.weight if items is None else self.item.mean(items)  # ([B,] C, 1 + D)
        return self.mean + p[:, :1] + q[..., 0] + products(p[:, 1:], q[..., 1:])

    def predict(self, batch: Rows) -> dict[str, Tensor]:
        return {
            "rating": self.sizes.clamped(self(batch, Context())["rating"]),
            "variance": self._variance(batch.user, batch.item),
        }

    def _variance(self, user: Tensor, item: Tensor) -> Tensor:
        """Variance of a new rating, (B,): of the noise, the biases and, for a product of
        independent x and y, vx vy + vx my^2 + vy mx^2.
        """
        (m_p, v_p), (m_q, v_q) = (
            (side.mean(index), side.variance(side.ratio(index)))
            for side, index in ((self.user, user), (self.item, item))
        )
        products = v_p * v_q + v_p * m_q.square() + v_q * m_p.square()  # (B, 1 + D)
        return (-self.log_precision).exp() + v_p[:, 0] + v_q[:, 0] + products[:, 1:].sum(1)


def _rating(user: Tensor, item: Tensor) -> Tensor:
    """(B, 1 + D) both, a bias and factors -> (B,)"""
    return user[:, 0] + item[:, 0] + (user[:, 1:] * item[:, 1:]).sum(1)
