"""The mathematics of bilevel optimization: what a problem, a solver, a start and a method are.

A bilevel problem has two losses. The inner loss f(z, lambda) decides the inner parameters z, such
as the weights of a network. The outer loss F(z, lambda) judges them, and decides the outer
parameters lambda, such as the weight of each training example:

    min over lambda of F(z*(lambda), lambda),    where z*(lambda) minimises f(., lambda).

The gradient of this in lambda is the hypergradient. An algorithm that follows it is a product of
five choices, none of which knows another:

    choice      what it decides                             interface
    problem     f, F and their data                         core/problem.py, core/task.py
    solver      how z moves:  z_{t+1} = Phi(z_t)            core/solver.py
    start       where an inner solve begins                 core/start.py
    method      how the hypergradient is estimated          core/method.py
    optimizer   how lambda moves                            torch.optim

Three famous algorithms are three such products. `problem` is any object with `init_inner`,
`inner_loss` and `outer_loss`.

**MAML** (Finn et al., 2017, arXiv:1703.03400) learns the start of a few steps of gradient
descent, and differentiates through all of them. Its inner problems are episodes: f is the loss of
a network on the few images that an episode shows, F its loss on the images that the episode asks
for.

    loop = InnerLoop(problem, GradientDescent(lr=0.1), Learned())
    method = Reverse(window=None, segment=None)

**Data hyper-cleaning by implicit differentiation** (Pedregosa, 2016, arXiv:1602.02355; Lorraine
et al., 2020, arXiv:1911.02590) learns a weight for each training example. f is the weighted loss
on examples some of whose labels are wrong, F the loss on a few clean ones. Each inner solve goes
on where the last one stopped, and the hypergradient is that of the point where the solver comes
to rest: one linear system with the Hessian of f, and no memory of the steps that led there.

    loop = InnerLoop(problem, GradientDescent(lr=0.1), Warm())
    solver = ConjugateGradient(max_steps=20, rtol=1e-3)
    method = Implicit(solver, warm_adjoint=False, curvature="hessian", clip=None)

**IAPTT-GM** (Liu et al., 2021, arXiv:2110.00455) is for an f that is not convex. It learns the
start too, and differentiates through the steps up to the one with the largest outer loss.

    loop = InnerLoop(problem, GradientDescent(lr=0.1), Learned())
    method = Iaptt()

What is left is the same for all three, and is all that a run does. `data` holds every random
number of an outer step, `carry` all that is remembered from one outer step to the next:

    outer = {**outer, **loop.outer_init(data, outer)}              # what start and solver learn
    carry = method.begin(loop, outer, data, loop.fresh(outer, data))
    optimizer = torch.optim.Adam(outer.values(), lr=0.1)
    for _ in range(outer_steps):
        estimate = method.estimate(loop, outer, data, carry)       # a pure function
        carry = estimate.carry
        for name, value in outer.items():
            value.grad = estimate.grad[name]
        optimizer.step()

Since `estimate` is a pure function whose control flow no tensor decides, the same call can be
mapped over episodes (core/episodes.py), compiled, replayed from a checkpoint, or held against a
reference that shares no code with it (core/claim.py, core/references.py).

Read on in this order: trees.py (parameters are flat dicts of tensors), autodiff.py (every
derivative), problem.py, oracle.py, solver.py, start.py, loop.py, method.py, episodes.py.

Nothing in here knows a file, a clock, a configuration or the limits of a device. A function never
changes what it is given: only a run writes into the tensors of `outer`, between two outer steps.
Tensors stay on the device and in the type in which they come.
"""
