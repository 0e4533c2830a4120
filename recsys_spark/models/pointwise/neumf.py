"""Neural matrix factorization: a generalised dot product (GMF) beside a multilayer perceptron
(MLP), joined at the output.

Paper: Xiangnan He, Lizi Liao, Hanwang Zhang, Liqiang Nie, Xia Hu, Tat-Seng Chua. Neural
Collaborative Filtering. WWW 2017, arXiv:1708.05031 (equations 7 to 13).
Differs: pre-training is an option (`pretrain_epochs`), without it all starts from random weights.
With it, GMF and MLP are trained one after the other by the job's optimiser (Adam in the paper) and
each hands on its best epoch on validation (the authors choose by the test items); the joint
training may use another optimiser than plain SGD. The biases of the two outputs are mixed as their
weights are, as in the authors' code. Dense layers start from Glorot's uniform distribution (the
paper says N(0, 0.01) for all, its code does not); both branches' embeddings of a user lie side by
side in one table, which changes no result; an optional L2 on the embedding rows in the batch. A
user or item absent from training keeps its initial embedding, close to zero, and index 0 is zero:
the scores of such a user depend on the items alone.

For: comparison with the literature.
Needs: events; negatives are drawn.
Cold: a user without training events gets the fallback; new items are never found.
Not for: large catalogues: a full ranking is a pass of the network for every pair; ials and bpr_mf
    rank better.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.batches.query import Query
from recsys_spark.core.contracts import Optim
from recsys_spark.models.base import Context, Gradient, Sizes
from recsys_spark.models.pointwise._ncf import Ncf
from recsys_spark.models.pointwise.gmf import Gmf
from recsys_spark.models.pointwise.ncf_mlp import NcfMlp
from recsys_spark.nn.tables import distinct, products, table
from recsys_spark.nn.tower import HalvingTower, glorot, over_pairs

JOINT = "joint"


class Neumf(Ncf):
    """With pre-training it keeps the pre-trained models in addition to the joint one, so it holds
    twice the weights.
    """

    class Config(NcfMlp.Config):
        # maximum for GMF and for MLP, before both are trained jointly; 0: no pre-training
        pretrain_epochs: int = Field(0, ge=0)
        init_std: float = Field(0.01, gt=0)  # standard deviation of the embeddings at the start
        # share of the pre-trained GMF in the output, equation 13
        alpha: float = Field(0.5, ge=0, le=1)
        joint_optim: Literal["sgd", "adam", "adamw", "adagrad"] = (
            "sgd"  # after pre-training; pre-training uses the job's
        )
        # Learning rate of the joint training after pre-training
        joint_lr: float = Field(0.01, gt=0)

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        k = config.dim
        self.widths = [k, k * 2 ** (config.num_layers - 1)]  # of a user's GMF and MLP embedding
        self.user = table(sizes.num_users, sum(self.widths), config.init_std)
        self.item = table(sizes.num_items, sum(self.widths), config.init_std)
        self.tower = HalvingTower(k, config.num_layers)
        self.output = nn.Linear(2 * k, 1)
        glorot([*self.tower, self.output])
        if config.pretrain_epochs:
            shared = config.model_dump(include=set(NcfMlp.Config.model_fields))
            self.gmf = Gmf(
                Gmf.Config(
                    **{
                        key: value
                        for key, value in shared.items()
                        if key in Gmf.Config.model_fields
                    }
                ),
                sizes,
            )
            self.mlp = NcfMlp(NcfMlp.Config(**shared), sizes)

    def forward(self, batch: Rows, ctx: Context) -> dict[str, Tensor]:
        users, items = distinct(batch.user), distinct(batch.item)
        user, item = self.user(users.each), self.item(items.each)  # (U', k + 2k), (I', k + 2k)
        (p_gmf, p_mlp), (q_gmf, q_mlp) = user.split(self.widths, 1), item.split(self.widths, 1)
        z = self.tower(p_mlp, q_mlp, users, items)  # equation 10; (B, k)
        gmf = users.spread(p_gmf) * items.spread(q_gmf)  # (B, k)
        h_gmf, h_mlp = self.output.weight.squeeze(0).chunk(2)
        logit = gmf @ h_gmf + z @ h_mlp + self.output.bias  # equation 12 before its sigmoid, (B,)
        return self.output_of(logit, (users, user), (items, item))

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        p_gmf, p_mlp = self.user(query.user).split(self.widths, -1)  # (B, k), (B, 2k)
        # ([B,] C, k), ([B,] C, 2k)
        q_gmf, q_mlp = (self.item.weight if items is None else self.item(items)).split(
            self.widths, -1
        )
        h_gmf, h_mlp = self.output.weight.squeeze(0).chunk(2)
        p_gmf = p_gmf * h_gmf
        return (
            products(p_gmf, q_gmf) + over_pairs(self.tower, p_mlp, q_mlp, h_mlp) + self.output.bias
        )

    def phases(self) -> list[Gradient]:
        if not self.config.pretrain_epochs:
            return super().phases()
        return [
            *(
                Gradient(name, part.parameter_groups(), part, epochs=self.config.pretrain_epochs)
                for name, part in (("gmf", self.gmf), ("mlp", self.mlp))
            ),
            Gradient(
                JOINT,
                self.parameter_groups(),
                optim=Optim(name=self.config.joint_optim, lr=self.config.joint_lr),
            ),
        ]

    def parameter_groups(self) -> list[dict[str, list[nn.Parameter]]]:
        """The parameters of the joint model: the pre-trained models are trained in their own
        phases.
        """
        return [
            {
                "params": [
                    weight
                    for name, weight in self.named_parameters()
                    if not name.startswith(("gmf.", "mlp."))
                ]
            }
        ]

    @torch.no_grad()
    def begin(self, phase: str) -> None:
        if phase == JOINT:
            for table, side in ((self.user, "user"), (self.item, "item")):
                table.weight.copy_(
                    torch.cat([getattr(self.gmf, side).weight, getattr(self.mlp, side).weight], 1)
                )
            self.tower.load_state_dict(self.mlp.tower.state_dict())
            share = self.config.alpha
            gmf, mlp = self.gmf.output, self.mlp.output
            # Equation 13
            self.output.weight.copy_(torch.cat([share * gmf.weight, (1 - share) * mlp.weight], 1))
            self.output.bias.copy_(share * gmf.bias + (1 - share) * mlp.bias)
