"""Load a model and its tokenizer, and see it as hidden states plus a head.

The head is applied apart so that logits [B, T, V] never exist whole; `load_pair` checks that doing so gives the
model's own logits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trb_lab.errors import LabError, UsageError
from trb_lab.policy.eos import StopMap
from trb_lab.spec.experiment import ModelSpec

from .catalog import ResolvedModel, resolve
from .vocabulary import SharedVocabulary, share_vocabulary, stop_ids_of


class LanguageModel(nn.Module):
    """A transformers causal LM as decoder plus head, with its map to the shared vocabulary."""

    def __init__(self, network: Any, tokenizer: Any, spec: ModelSpec, stop_ids: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        self.tokenizer = tokenizer
        self.spec = spec
        self.own_stop_ids = stop_ids
        self.stops: StopMap | None = None

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    def hidden(self, **inputs: Any) -> Tensor:
        """Last hidden states [B, T, H]; takes what the decoder takes (input_ids, attention_mask, caches ...)."""
        return self.network.get_decoder()(**inputs).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., W] of hidden states [..., H]."""
        return self.network.get_output_embeddings()(hidden)

    def checkpoint_activations(self) -> None:
        """Recompute each layer's activations in the backward pass, in training mode only (transformers' rule)."""
        # The older name is gone in transformers 6; releases before 5.2x have no other.
        names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
        enable = next(getattr(self.network, name) for name in names if hasattr(self.network, name))
        enable({"use_reentrant": False})

    def bind(self, vocabulary: SharedVocabulary) -> None:
        """Set the map from this model's logits to the shared vocabulary."""
        width = self.network.get_output_embeddings().weight.shape[0]
        if width < vocabulary.size:
            raise LabError(f"model '{self.spec.name}' has {width} logits for {vocabulary.size} shared tokens")

        def index(ids: Iterable[int]) -> Tensor:
            return torch.tensor(list(ids), dtype=torch.int64, device=self.device)

        own = min(width, len(self.tokenizer))
        self.stops = StopMap(
            vocabulary.size,
            vocabulary.stop_id,
            index(i for i in vocabulary.stop_ids if i < own),
            index(vocabulary.masked_ids),
        )

    @torch.no_grad()
    def check_head(self) -> None:
        """Head over hidden states must give the model's own logits (it would not with soft-capping or scaling)."""
        ids = torch.tensor([[self.own_stop_ids[0]] * 2], device=self.device)
        whole = self.network(input_ids=ids).logits
        apart = self.logits(self.hidden(input_ids=ids))
        if not torch.allclose(whole.float(), apart.float(), rtol=1e-2, atol=1e-2):
            raise LabError(
                f"model '{self.spec.name}' changes its logits after the output head (soft-capping or scaling): "
                "its architecture is not supported."
            )


def pick_device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """`auto` takes the GPU where there is one."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "resources.device is 'cuda' and no GPU is visible: use 'auto' or 'cpu', or fix the driver."
        )
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda")


def pick_dtype(wanted: Literal["auto", "float32", "bfloat16"], device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on GPU and float32 on CPU."""
    if wanted == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.float32 if wanted == "float32" else torch.bfloat16


def load_tokenizer(resolved: ResolvedModel) -> Any:
    """The tokenizer, from files alone; nothing in the folder is executed."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolved.path, local_files_only=True, trust_remote_code=False)


def load_model(
    spec: ModelSpec, device: torch.device, dtype: torch.dtype, weights: dict[str, Tensor] | None = None
) -> LanguageModel:
    """Model in evaluation mode. `weights` (a state dict, tied tensors once) replace the folder's."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # one bar a model would bury a run's own progress
    resolved = resolve(spec)
    files: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(resolved.path, **files)
        network = AutoModelForCausalLM.from_pretrained(
            resolved.path, config=config, dtype=dtype, use_safetensors=True, **files
        )
        tokenizer = load_tokenizer(resolved)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"model '{spec.name}' cannot be loaded from {resolved.path}: {reason} "
            "A folder in transformers format holds config.json, *.safetensors and a tokenizer."
        ) from error
    if weights is not None:
        load_weights(network, weights)
    switch_off_dropout(network)
    stops = stop_ids_of(tokenizer, network.generation_config, network.config)
    model = LanguageModel(network, tokenizer, spec, stops).to(device).eval()
    model.check_head()
    return model


def switch_off_dropout(network: nn.Module) -> None:
    """Rollout and loss must see the same function, also where activation checkpointing needs training mode."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010 - not a name that torch knows of


def load_weights(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy a saved state dict in; names that tie to saved ones may be missing, nothing else may."""
    report = network.load_state_dict(weights, strict=False)
    # A mapping in newer transformers, empty for untied models whatever the older attribute says.
    tied_keys = getattr(network, "all_tied_weights_keys", None)
    tied = set(getattr(network, "_tied_weights_keys", None) or () if tied_keys is None else tied_keys)
    missing = [name for name in report.missing_keys if name not in tied]
    if missing or report.unexpected_keys:
        raise LabError(
            f"weights do not fit the model: missing {missing[:3]}, unexpected {report.unexpected_keys[:3]}"
        )


def saved_weights(network: nn.Module) -> dict[str, Tensor]:
    """The state dict with tied tensors once, detached, on the CPU: what `load_weights` takes."""
    weights: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, parameter in network.named_parameters():  # named_parameters lists tied tensors once
        weights[name] = parameter.detach().cpu().contiguous()
        seen.add(id(parameter))
    weights.update({name: buffer.detach().cpu().contiguous() for name, buffer in _saved_buffers(network)})
    return weights


def _saved_buffers(network: nn.Module) -> list[tuple[str, Tensor]]:
    persistent = set(network.state_dict().keys())
    return [(name, buffer) for name, buffer in network.named_buffers() if name in persistent]


@dataclass
class Pair:
    """Student and teacher bound to one vocabulary."""

    student: LanguageModel
    teacher: LanguageModel
    vocabulary: SharedVocabulary


def load_pair(
    student: ModelSpec,
    teacher: ModelSpec,
    device: torch.device,
    dtype: torch.dtype,
    student_weights: dict[str, Tensor] | None = None,
) -> Pair:
    """Both models on one device, with the shared vocabulary of their tokenizers."""
    student_model = load_model(student, device, dtype, student_weights)
    teacher_model = load_model(teacher, device, dtype)
    teacher_model.requires_grad_(False)
    vocabulary = share_vocabulary(
        student_model.tokenizer,
        teacher_model.tokenizer,
        student_model.own_stop_ids,
        teacher_model.own_stop_ids,
    )
    student_model.bind(vocabulary)
    teacher_model.bind(vocabulary)
    return Pair(student_model, teacher_model, vocabulary)
