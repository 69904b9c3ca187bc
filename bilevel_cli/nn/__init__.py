"""Torch modules made functional, and layers that are faster than torch's own.

A module of torch keeps its parameters. A bilevel method needs a function of them, in order to
differentiate an inner loop, replay its steps, and solve several inner problems at once:

* `functional`: a module whose parameters are arguments.
* `building`: builds the model of a run, and refuses one that no method could use. For that it asks
  `purity`, whether the model is a function of its parameters and its input, and
  `differentiability`, which derivatives it has.
* `randomness`: the generators that constructors of layers draw from.
* `attention`: the kernel of torch's attention that has all derivatives.
* `corrections`: functions of torch with a wrong derivative, corrected where a model calls them.
* `blame`: an error of a user's code in one line that names the place.

Some of torch's layers are slow on a CPU, and one has a wrong derivative. These have twins of the
same values and derivatives, each in a file that says what it gains: `affine`, `normalization`,
`pooling` and `losses`. `serving` says on which tensors the twins take over. Of two kernels for one
product, `choosing` measures which is faster on this machine.
"""
