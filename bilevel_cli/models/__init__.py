"""Models, by the options of conf/model: ordinary torch modules of the literature."""

from bilevel_cli.models.convnets import Conv4 as Conv4
from bilevel_cli.models.convnets import ConvNet as ConvNet
from bilevel_cli.models.linear import Linear as Linear
from bilevel_cli.models.linear import LinearNoBias as LinearNoBias
from bilevel_cli.models.linear import Projection as Projection
from bilevel_cli.models.mlp import Mlp as Mlp
