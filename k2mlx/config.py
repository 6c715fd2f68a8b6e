"""What a K2 is made of: the fields of config.json, read, checked and frozen.

Field names and meanings are those of the Hugging Face checkpoints (k2-spec 1;
configuration_deepseek.py). A value that this code does not implement is a ConfigError, a key that
it does not know is a warning: neither is passed over in silence.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import CheckpointError, ConfigError
from .fields import build, check_object, check_positive, parse_json

# Never quantised, and float32 in the model.
ROUTER = ("mlp.gate.weight", "mlp.gate.e_score_correction_bias")
MOST_LAYERS = 1000  # K2 has 61; a damaged number would be planned for until the memory is full
CHAT_FORMATS = ("k2-nano", "kimi-k2-instruct", "kimi-k2-thinking", "kimi-k2.5")

# Keys that say nothing about the computation: bookkeeping, training-time values, defaults of
# generation.
IGNORED_KEYS = frozenset(
    """
    architectures auto_map attention_dropout aux_loss_alpha seq_aux ep_size pretraining_tp
    torch_dtype dtype use_cache transformers_version bos_token_id pad_token_id unk_token_id
    _name_or_path num_nextn_predict_layers output_attentions output_hidden_states return_dict
    tie_encoder_decoder num_key_value_heads moe_layer_freq head_dim rope_parameters rope_interleave
    qk_head_dim
    """.split()
)


@dataclass(frozen=True)
class RopeScaling:
    """YaRN (arXiv 2309.00071) as config.json's `rope_scaling` gives it. No field has a default but
    the scales: `beta_fast` is 1 in K2 and 32 in K2.5, and a wrong guess is silently wrong (k2-spec
    0.1)."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float
    beta_slow: float
    mscale: float = 1.0
    mscale_all_dim: float = 0.0

    @classmethod
    def from_dict(cls, d: dict[str, Any] | None) -> RopeScaling | None:
        if d is None:
            return None
        d = dict(check_object(d, "rope_scaling"))
        kind = d.pop("type", d.pop("rope_type", "yarn"))
        d.pop("rope_type", None)
        if kind != "yarn":
            raise ConfigError(
                f"rope_scaling.type: got {kind!r}, wanted 'yarn' (or rope_scaling: null)"
            )
        scaling = build(cls, d, "rope_scaling.")
        check_positive(scaling, "rope_scaling.", zero=("mscale", "mscale_all_dim"))
        return scaling


@dataclass(frozen=True)
class QuantSpec:
    """How one kind of matrix is stored. `symmetric` is K2's INT4 grid (codes -7..7, no biases on
    disk), `affine` is MLX's w = q * scale + bias; both with one scale for each `group_size` inputs
    of a row."""

    bits: int
    group_size: int
    mode: str = "affine"

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str) -> QuantSpec:
        spec = build(cls, d, where)
        if spec.mode not in ("affine", "symmetric"):
            raise ConfigError(f"{where}mode: got {spec.mode!r}, wanted 'affine' or 'symmetric'")
        bits = (4,) if spec.mode == "symmetric" else (2, 3, 4, 5, 6, 8)
        if spec.bits not in bits:
            raise ConfigError(f"{where}bits: got {spec.bits}, wanted one of {bits} for {spec.mode}")
        groups = (32,) if spec.mode == "symmetric" else (32, 64, 128)
        if spec.group_size not in groups:
            raise ConfigError(f"{where}group_size: got {spec.group_size}, wanted one of {groups}")
        return spec


def finest(specs: Iterable[QuantSpec | None]) -> QuantSpec | None:
    """How matrices that become one are stored, if nothing is to be lost that need not be: MLX may
    hold an expert's gate and up in different precision."""
    found = list(specs)
    known = [spec for spec in found if spec is not None]
    if len(known) < len(found):
        return None
    return max(known, key=lambda spec: (spec.bits, -spec.group_size, spec.mode))


@dataclass(frozen=True)
class Quantization:
    """Which matrices are quantised and how; None leaves them in floating point.

    `modules` says otherwise for single ones, by their path in the module tree. The router's gate,
    its correction bias and all norms are never quantised.
    """

    experts: QuantSpec | None = None
    rest: QuantSpec | None = None
    embed_tokens: QuantSpec | None = None
    lm_head: QuantSpec | None = None
    modules: dict[str, QuantSpec | None] = field(default_factory=dict)

    def spec(self, path: str) -> QuantSpec | None:
        """How the matrix of this module, or the tensor below it, is stored."""
        if "norm" in path or any(part in path for part in ROUTER):
            return None
        for ending in (".weight", ".scales", ".biases"):
            path = path.removesuffix(ending)
        return self.modules[path] if path in self.modules else getattr(self, self.kind(path))

    @staticmethod
    def kind(path: str) -> str:
        """The field that speaks of the matrix at this path."""
        if ".mlp.experts." in path:
            return "experts"
        named = {"lm_head": "lm_head", "model.embed_tokens": "embed_tokens"}
        return named.get(path, "rest")

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Quantization:
        """Our own form, one entry a kind of matrix, or MLX's: one for all, and others by path."""
        d = dict(check_object(d, "quantization"))
        if "bits" in d:
            return cls._from_mlx(d)
        modules = {
            path: _spec(value, f"quantization.modules.{path}")
            for path, value in check_object(d.pop("modules", {}), "quantization.modules").items()
        }
        for key in d:
            if key not in cls.__dataclass_fields__:
                wanted = ", ".join(cls.__dataclass_fields__)
                raise ConfigError(f"quantization.{key}: unknown key; wanted {wanted}")
        kinds = {key: _spec(value, f"quantization.{key}") for key, value in d.items()}
        return cls(**kinds, modules=modules)

    @classmethod
    def _from_mlx(cls, d: dict[str, Any]) -> Quantization:
        names = {key: d.pop(key) for key in list(d) if key not in QuantSpec.__dataclass_fields__}
        common = _spec(d, "quantization")
        found: dict[str, list[QuantSpec | None]] = {}
        for name, value in names.items():
            spec = common if value is True else _spec(value or None, f"quantization.{name}")
            found.setdefault(module_path(name), []).append(spec)
        for path, specs in found.items():
            if path.endswith(".gate_up_proj") and len(specs) == 1:  # the other half is not named
                specs.append(common)
        modules = {path: finest(specs) for path, specs in found.items()}
        return cls(common, common, common, common, modules)

    def to_dict(self) -> dict[str, Any]:
        """Our own form, without what is None."""
        return {k: v for k, v in asdict(self).items() if v}


def module_path(name: str) -> str:
    """The path in our module tree of what mlx-lm or K2.5's checkpoints call `name`."""
    name = name.removeprefix("language_model.")
    if not name.startswith(("model.", "lm_head")):
        return name
    for theirs in (".mlp.switch_mlp.gate_proj", ".mlp.switch_mlp.up_proj"):
        name = name.replace(theirs, ".mlp.experts.gate_up_proj")
    return name.replace(".mlp.switch_mlp.", ".mlp.experts.")


def _spec(value: Any, where: str) -> QuantSpec | None:
    return None if value is None else QuantSpec.from_dict(check_object(value, where), f"{where}.")


@dataclass(frozen=True)
class ModelConfig:
    """One K2. Sizes are counts of elements; `rms_norm_eps` is for the layer norms (the two low-rank
    norms of the attention always use 1e-6, k2-spec 0.2)."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    n_routed_experts: int
    num_experts_per_tok: int
    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    routed_scaling_factor: float
    n_shared_experts: int = 1
    first_k_dense_replace: int = 1
    initializer_range: float = 0.02
    norm_topk_prob: bool = True
    rope_scaling: RopeScaling | None = None
    quantization: Quantization | None = None
    checkpoint_format: str = "k2mlx"  # of the weights: k2mlx | mlx | bf16 | fp8 | int4
    chat_format: str = "kimi-k2-instruct"
    eos_token_id: tuple[int, ...] = ()
    model_type: str = "kimi_k2"

    @classmethod
    def load(cls, folder: str | Path) -> ModelConfig:
        """Read FOLDER/config.json. Raises CheckpointError without a file, ConfigError for its
        content."""
        path = Path(folder) / "config.json"
        if not path.is_file():
            raise CheckpointError(
                f"{folder}: no config.json there; wanted a folder with config.json and "
                "*.safetensors. Give --model the folder of a model, such as models/k2-nano."
            )
        try:
            content = parse_json(path.read_bytes())
        except ValueError as error:
            raise ConfigError(f"{path}: not JSON ({error}); fetch the file again") from None
        try:
            return cls.from_dict(content)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}; mend it there or fetch the folder again") from None

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> ModelConfig:
        """Check a config.json's content. Raises ConfigError naming the key, what it holds and what
        is built."""
        d = dict(check_object(d, "config"))
        if isinstance(d.get("text_config"), dict):  # K2.5 keeps the language model in a part
            outer = {key: d[key] for key in ("quantization", "quantization_config") if key in d}
            d = outer | d["text_config"]
        _check_fixed(d)
        heads = d.get("num_attention_heads")
        if d.get("num_key_value_heads", heads) != heads:
            raise ConfigError(
                f"num_key_value_heads: got {d['num_key_value_heads']}, wanted {heads}"
            )
        hf = d.pop("quantization_config", None)
        own = d.pop("quantization", None)
        eos = d.pop("eos_token_id", None)
        eos = () if eos is None else tuple(eos) if isinstance(eos, list | tuple) else (eos,)
        values = {
            "rope_scaling": RopeScaling.from_dict(d.pop("rope_scaling", None)),
            "quantization": None if own is None else Quantization.from_dict(own),
            "checkpoint_format": _checkpoint_format(own, hf, d.pop("checkpoint_format", None)),
            "chat_format": d.pop("chat_format", None),
            "eos_token_id": eos,
        }
        if values["chat_format"] is None:
            values["chat_format"] = _chat_format(values, d.get("rms_norm_eps"))
        if values["chat_format"] not in CHAT_FORMATS:
            wanted = ", ".join(CHAT_FORMATS)
            raise ConfigError(f"chat_format: got {values['chat_format']!r}, wanted one of {wanted}")
        unknown = [k for k in d if k not in cls.__dataclass_fields__ and k not in IGNORED_KEYS]
        if unknown:
            warnings.warn(
                f"config.json: unknown keys are not used: {', '.join(unknown)}", stacklevel=2
            )
        known = {k: v for k, v in d.items() if k in cls.__dataclass_fields__}
        config = build(cls, known | values, "")
        config._check()
        return config

    def to_dict(self) -> dict[str, Any]:
        """The content of a config.json that `from_dict` reads back and that mlx-lm and transformers
        know."""
        d = {k: v for k, v in asdict(self).items() if v is not None}
        d["eos_token_id"] = list(self.eos_token_id)
        if self.quantization:
            d["quantization"] = self.quantization.to_dict()
        if self.rope_scaling:
            d["rope_scaling"]["type"] = "yarn"
        fixed = {k: v[0] for k, v in _FIXED.items() if k not in ("model_type",)}
        return (
            {"architectures": ["DeepseekV3ForCausalLM"]}
            | fixed
            | d
            | {"num_key_value_heads": self.num_attention_heads}
        )

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    def spec(self, name: str) -> QuantSpec | None:
        """How the tensor of this name in the module tree is stored."""
        return None if self.quantization is None else self.quantization.spec(name)

    def is_dense(self, layer: int) -> bool:
        """Whether layer number `layer` has a dense feed-forward part instead of experts."""
        return layer < self.first_k_dense_replace

    def _check(self) -> None:
        check_positive(self, "", zero=("first_k_dense_replace",))
        for token in self.eos_token_id:
            if type(token) is not int or not 0 <= token < self.vocab_size:
                raise ConfigError(
                    f"eos_token_id: got {token!r}, wanted token ids from 0 to {self.vocab_size - 1}"
                )
        if self.num_hidden_layers > MOST_LAYERS:
            raise ConfigError(
                f"num_hidden_layers: got {self.num_hidden_layers}, wanted at most {MOST_LAYERS}"
            )
        if self.num_experts_per_tok > self.n_routed_experts:
            raise ConfigError(
                f"num_experts_per_tok: got {self.num_experts_per_tok}, wanted at most "
                f"n_routed_experts = {self.n_routed_experts}"
            )
        if self.qk_rope_head_dim % 2:
            raise ConfigError(
                f"qk_rope_head_dim: got {self.qk_rope_head_dim}, wanted an even number"
            )


# The values that define the K2 family; the first of each is written, any of them is read.
_FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("kimi_k2", "deepseek_v3", "kimi_k25"),
    "hidden_act": ("silu",),
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
    "n_group": (1, None),
    "topk_group": (1, None),
    "moe_layer_freq": (1,),
    "attention_bias": (False,),
    "tie_word_embeddings": (False,),
}


def _check_fixed(d: dict[str, Any]) -> None:
    for key, wanted in _FIXED.items():
        got = d.get(key, wanted[0])
        if got not in wanted or isinstance(got, bool) != isinstance(wanted[0], bool):
            raise ConfigError(f"{key}: got {got!r}, wanted {wanted[0]!r}; this is not a Kimi K2")
        if key != "model_type":
            d.pop(key, None)


def _checkpoint_format(own: Any, hf: Any, explicit: str | None) -> str:
    if explicit not in (None, "k2mlx", "bf16"):
        raise ConfigError(f"checkpoint_format: got {explicit!r}, wanted 'k2mlx' or 'bf16'")
    if own is not None:
        return "mlx" if isinstance(own, dict) and "bits" in own else "k2mlx"
    if explicit is not None or hf is None:
        return explicit or "bf16"
    method = hf.get("quant_method") if isinstance(hf, dict) else None
    if method == "fp8" and hf.get("weight_block_size") == [128, 128] and hf.get("fmt") == "e4m3":
        return "fp8"
    if method == "compressed-tensors" and hf.get("format") == "pack-quantized":
        return "int4"
    raise ConfigError(
        f"quantization_config: got quant_method {method!r}, wanted 'fp8' (e4m3, 128x128 blocks) or "
        "'compressed-tensors' (pack-quantized); this quantisation is unknown"
    )


def _chat_format(values: dict[str, Any], eps: float | None) -> str:
    """The official checkpoints do not name their prompt format; the rope and the norms' epsilon
    tell them apart, in every conversion (k2-spec 0.1, 0.2)."""
    scaling = values["rope_scaling"]
    if scaling and scaling.beta_fast == 32:
        return "kimi-k2.5"
    return "kimi-k2-thinking" if eps == 1e-5 else "kimi-k2-instruct"
