"""AdamW with float32 master weights.

The working weights may be bfloat16: they serve rollout and forward alike. At a learning rate of 1e-5 most updates
are smaller than bfloat16 can add, so the optimiser keeps float32 masters, adds micro-batch gradients to float32
buffers, and copies the masters back. With float32 working weights the masters are the weights themselves.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from trb_lab.spec.experiment import OptimSpec


def learning_rate(spec: OptimSpec, step: int) -> float:
    """Cosine rise over the first `lr_warmup_steps` steps, constant afterwards; `step` is 0-based."""
    if step + 1 >= spec.lr_warmup_steps:
        return spec.lr
    return spec.lr * 0.5 * (1.0 - math.cos(math.pi * (step + 1) / spec.lr_warmup_steps))


class MasterAdamW:
    """Optimiser of a module's trainable parameters. Call order: accumulate() after each backward, then step()."""

    def __init__(self, module: nn.Module, spec: OptimSpec) -> None:
        self.spec = spec
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.working = [p for _, p in named]
        self.masters = [
            p if p.dtype == torch.float32 else nn.Parameter(p.detach().float()) for p in self.working
        ]
        self.adamw = self._fresh_adamw()

    def _fresh_adamw(self) -> torch.optim.AdamW:
        spec = self.spec
        return torch.optim.AdamW(self.masters, lr=spec.lr, betas=spec.betas, weight_decay=spec.weight_decay)

    def renewed(self, spec: OptimSpec) -> MasterAdamW:
        """A fresh optimiser of the same weights. The float32 masters go over as they are, the moments do not."""
        fresh = copy.copy(self)
        fresh.spec = spec
        fresh.adamw = fresh._fresh_adamw()
        return fresh

    def accumulate(self) -> None:
        """Add the working weights' gradients to the float32 masters' and free them."""
        for master, working in zip(self.masters, self.working, strict=True):
            if master is working or working.grad is None:
                continue
            gradient = working.grad.float()
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            working.grad = None

    def step(self, step: int) -> float:
        """Clip, update, copy back, clear gradients. Returns the gradient norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(self.masters, self.spec.grad_clip)
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate(self.spec, step)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        with torch.no_grad():
            for master, working in zip(self.masters, self.working, strict=True):
                if master is not working:
                    working.copy_(master)
        return float(norm)

    def state_tensors(self) -> dict[str, Tensor]:
        """Everything that a resume needs, as named tensors on the CPU: masters and Adam's moments and counts."""
        tensors: dict[str, Tensor] = {}
        for name, master in zip(self.names, self.masters, strict=True):
            tensors[f"master/{name}"] = master.detach().cpu().contiguous()
            for key, value in self.adamw.state.get(master, {}).items():
                tensors[f"{key}/{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
        return tensors

    @torch.no_grad()
    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` gave; the working weights follow from the masters."""
        for name, master, working in zip(self.names, self.masters, self.working, strict=True):
            master.copy_(tensors[f"master/{name}"])
            if working is not master:
                working.copy_(master)
            state = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = tensors.get(f"{key}/{name}")
                if value is not None:
                    state[key] = value.clone() if key == "step" else value.to(master.device, copy=True)
            self.adamw.state[master] = state
