"""Which obstacle stood in the way of a crowd that was seen to move?"""

from pathlib import Path

import torch
from torch import Tensor

from bilevel_cli import Batch, InnerLoop, Params, StepData, Task, autodiff

CELLS, TIMES = 16, 8


class MeanFieldGame(Task):
    """The cost Q of each cell of a corridor, from counts of people; see README.md.

    Scores: root mean square error of Q, up to a constant, in the cells where a fiftieth of the
    crowd or more is on average, and in the others.

    Args:
        people: Counted at each time, >= 1.
        device: Where the problem lives. Given by the run.
        generator: Draws the people that are counted. Given by the run.
    """

    def __init__(self, people: int, device: torch.device, generator: torch.Generator) -> None:
        if people < 1:
            raise ValueError(f"MeanFieldGame needs people >= 1, got {people}. Set task.people.")
        self.x = (torch.arange(CELLS, device=device) + 0.5) / CELLS
        first, *bumps = [(-0.5 * ((self.x - c) / 0.06) ** 2).exp() for c in (0.2, 0.35, 0.85)]
        self.truth = 0.3 * torch.stack(bumps).sum(0)
        self.start = z = (first + 1e-3).sqrt().expand(TIMES, CELLS)
        step = torch.zeros_like(z)
        with torch.no_grad():
            for _ in range(500):  # the game as it was played
                slope = autodiff.grad(self.inner_loss)({"z": z}, {"cost": self.truth}, {})
                step = 0.9 * step - slope["z"]
                z = z + step
        self.played, self.share = z, density(z).mean(0) / CELLS
        places = density(z).cpu().multinomial(people, replacement=True, generator=generator)
        self.seen = torch.nn.functional.one_hot(places, CELLS).sum(1).to(z) * CELLS / people

    def init_outer(self, generator: torch.Generator) -> Params:
        return {"cost": 0.1 * torch.randn(CELLS, generator=generator).to(self.x)}

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        unused = self.x.new_zeros(num_steps)  # the game is the same in each inner step
        return StepData({"z": self.start}, {"unused": unused}, {"seen": self.seen})

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        rho = density(torch.cat([self.start[:1], inner["z"]]))
        psi = rho.cumsum(1) / CELLS  # the share of the crowd to the left: rho = d_x psi
        m = TIMES * (psi[:-1] - psi[1:])[:, :-1]  # m = -d_t psi, from cell to cell
        around = rho[1:] + rho[:-1]
        around = (around[:, 1:] + around[:, :-1]) / 4  # the density between two cells
        moving = (m.square() / (2 * around)).sum() / (CELLS * TIMES)
        away = 5 * (self.x - 0.5).square()
        standing = ((away + outer["cost"] + 0.1 * rho[1:].log()) * rho[1:]).mean()
        scale = 0.5 * (inner["z"].square().mean(1) - 1).square().sum()  # rho does not see it
        return moving + standing + scale

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return -(batch["seen"] * density(inner["z"]).log()).mean()

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        crowded, gap = self.share > 0.02, outer["cost"] - self.truth
        gap = gap - gap[crowded].mean()
        parts = {"crowded_error": crowded, "empty_error": ~crowded}
        return {name: gap[cells].square().mean().sqrt() for name, cells in parts.items()}

    def save_result(self, directory: Path, outer: Params, inner: Params) -> list[Path]:
        found = {**outer, "truth": self.truth, "rho": density(inner["z"]), "seen": self.seen}
        torch.save({name: x.cpu() for name, x in found.items()}, directory / "corridor.pt")
        return [directory / "corridor.pt"]


def density(z: Tensor) -> Tensor:
    people = z.square() + 1e-3  # a few are everywhere
    return people / people.mean(-1, keepdim=True)
