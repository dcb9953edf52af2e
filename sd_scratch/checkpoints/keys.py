"""The keys of the files that describe a checkpoint: each is used, has no effect here, or is not supported. An
unknown key gives a warning. ``docs/checkpoints.md`` shows these tables.
"""

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

from sd_scratch.json_file import Fields


@dataclass(frozen=True)
class Keys:
    """The keys of one kind of file.

    Attributes:
        title: the file, for people.
        obeyed: key -> what it decides.
        idle: key -> why it has no effect here. A key may be a regular expression.
        refused: key -> its accepted values; any other refuses the model.
        warned: the same, but any other value is warned of and not followed.
        lacking: the same, but any other value would change pictures: a run that follows the file is refused.
    """

    title: str
    obeyed: Mapping[str, str]
    idle: Mapping[str, str]
    refused: Mapping[str, Sequence[object]] = field(default_factory=dict)
    warned: Mapping[str, Sequence[object]] = field(default_factory=dict)
    lacking: Mapping[str, Sequence[object]] = field(default_factory=dict)

    def check(self, fields: Fields, idle: Container[str] = ()) -> None:
        """Refuse and warn; what is `idle` here is only warned of. Raises ScratchError."""
        for key, allowed in self.refused.items():
            fields.only(key, *allowed)
        doubtful = {**self.warned, **self.lacking}
        for key, value in fields.data.items():
            if key in doubtful:
                if any(type(value) is type(a) and value == a for a in doubtful[key]):
                    continue
                if key in self.warned or key in idle:
                    fields.warn(key, "is not supported and not followed, and changes nothing here")
                else:
                    fields.lack(key, "is not supported")
            elif not self.knows(key):
                fields.warn(key, "is not known here and not followed")

    def knows(self, key: str) -> bool:
        named = any(key in t for t in (self.obeyed, self.refused, self.warned, self.lacking))
        return named or any(re.fullmatch(pattern, key) for pattern in self.idle)


BY_WEIGHTS = "names classes and versions; what is loaded goes by keys and weights"
TRAINING = "for training only"
OUTPUTS = "chooses what transformers' class returns"

UNET = Keys(
    "unet/config.json",
    obeyed={
        "attention_head_dim": "how many heads (diffusers' name for it), one number or one a level",
        "block_out_channels": "widths of the levels",
        "cross_attention_dim": "width of the text vectors",
        "down_block_types": "which levels attend to the text",
        "in_channels": "4 for text to image, 9 for inpainting, 8 for InstructPix2Pix",
        "layers_per_block": "residual blocks a level",
        "norm_num_groups": "groups of the norms",
        "out_channels": "channels of the prediction",
        "sample_size": "default size of pictures; below 64 it means 64 in files of diffusers before 0.9",
        "up_block_types": "checked against down_block_types",
        "upcast_attention": "attention is computed in full precision",
        "use_linear_projection": "linear layers around the transformers, as in Stable Diffusion 2.x",
        "_diffusers_version": "what sample_size means",
    },
    idle={
        "_class_name": BY_WEIGHTS,
        "_name_or_path": BY_WEIGHTS,
        "addition_embed_type_num_heads": "of an additional embedding, which is refused",
        "decay|inv_gamma|min_decay|optimization_step|power|update_after_step|use_ema_warmup": TRAINING,
        "dropout": TRAINING,
        "upcast_softmax": "softmax is computed in full precision anyway",
    },
    # Other values are another network. Zero and one are given as int and as float, since JSON does not
    # tell them apart.
    refused={
        "act_fn": ("silu", "swish"),
        "addition_embed_type": (None,),
        "addition_time_embed_dim": (None,),
        "attention_type": ("default",),
        "center_input_sample": (False,),
        "class_embed_type": (None,),
        "class_embeddings_concat": (False,),
        "conv_in_kernel": (3,),
        "conv_out_kernel": (3,),
        "cross_attention_norm": (None,),
        "downsample_padding": (1,),
        "dual_cross_attention": (False,),
        "encoder_hid_dim": (None,),
        "encoder_hid_dim_type": (None,),
        "flip_sin_to_cos": (True,),
        "freq_shift": (0, 0.0),
        "mid_block_only_cross_attention": (None, False),
        "mid_block_scale_factor": (1, 1.0),
        "mid_block_type": ("UNetMidBlock2DCrossAttn",),
        "norm_eps": (1e-5,),
        "num_attention_heads": (None,),
        "num_class_embeds": (None,),
        "only_cross_attention": (False,),
        "projection_class_embeddings_input_dim": (None,),
        "resnet_out_scale_factor": (1, 1.0),
        "resnet_skip_time_act": (False,),
        "resnet_time_scale_shift": ("default",),
        "reverse_transformer_layers_per_block": (None,),
        "time_cond_proj_dim": (None,),
        "time_embedding_act_fn": (None,),
        "time_embedding_dim": (None,),
        "time_embedding_type": ("positional",),
        "timestep_post_act": (None,),
        "transformer_layers_per_block": (1,),
    },
)

VAE = Keys(
    "vae/config.json",
    obeyed={
        "block_out_channels": "widths of the levels",
        "down_block_types": "checked: one plain block a level",
        "in_channels": "channels of pictures",
        "latent_channels": "channels of latents",
        "layers_per_block": "residual blocks a level",
        "norm_num_groups": "groups of the norms",
        "out_channels": "channels of pictures",
        "scaling_factor": "what latents are multiplied with",
        "up_block_types": "checked: one plain block a level",
    },
    idle={
        "_class_name": BY_WEIGHTS,
        "_diffusers_version": BY_WEIGHTS,
        "_name_or_path": BY_WEIGHTS,
        "force_upcast": "a half-precision decoder that overflows is run again in full precision anyway",
        "sample_size": "of training; the U-Net's decides the size of pictures",
    },
    refused={
        "act_fn": ("silu", "swish"),
        "latents_mean": (None,),
        "latents_std": (None,),
        "mid_block_add_attention": (True,),
        "shift_factor": (None,),
        "use_post_quant_conv": (True,),
        "use_quant_conv": (True,),
    },
)

# What every configuration of transformers held in 2022: of generating text, and of other libraries.
GENERATION = (
    "add_cross_attention|bad_words_ids|begin_suppress_tokens|chunk_size_feed_forward|"
    "cross_attention_hidden_size|decoder_start_token_id|diversity_penalty|do_sample|early_stopping|"
    "encoder_no_repeat_ngram_size|exponential_decay_length_penalty|finetuning_task|"
    "forced_bos_token_id|forced_eos_token_id|id2label|is_decoder|is_encoder_decoder|label2id|"
    "length_penalty|max_length|min_length|no_repeat_ngram_size|num_beam_groups|num_beams|"
    "num_return_sequences|output_scores|prefix|problem_type|pruned_heads|remove_invalid_values|"
    "repetition_penalty|return_dict_in_generate|sep_token_id|suppress_tokens|task_specific_params|"
    "temperature|tf_legacy_loss|tie_encoder_decoder|tie_word_embeddings|tokenizer_class|top_k|top_p|"
    "torchscript|typical_p|use_bfloat16|use_cache"
)

TEXT = Keys(
    "text_encoder/config.json",
    obeyed={
        "hidden_act": "the activation",
        "hidden_size": "width",
        "intermediate_size": "width inside the perceptrons",
        "layer_norm_eps": "of all norms",
        "max_position_embeddings": "tokens a prompt",
        "model_type": "a whole CLIP's text encoder is read from text_config",
        "num_attention_heads": "heads",
        "num_hidden_layers": "layers",
        "text_config": "the text encoder of a whole CLIP",
        "vocab_size": "rows of the embedding",
    },
    idle={
        "_name_or_path|architectures|auto_map|transformers_version|_commit_hash": BY_WEIGHTS,
        "attention_dropout|dropout|initializer_factor|initializer_range|gradient_checkpointing": TRAINING,
        "bos_token_id|eos_token_id|pad_token_id": "the tokenizer has its own",
        "projection_dim|logit_scale_init_value": "of CLIP's projection, which no picture needs",
        "dtype|torch_dtype": "every tensor says its own type",
        "output_attentions|output_hidden_states|return_dict": OUTPUTS,
        "vision_config|vision_config_dict|text_config_dict": "of the other half of a whole CLIP, or a copy",
        GENERATION: "of generating text, which a text encoder does not do",
    },
)

SCHEDULER = Keys(
    "scheduler/scheduler_config.json",
    obeyed={
        "_class_name": "the sampler; with one that is not here a run wants a sampler named",
        "algorithm_type": "DPM++ for dpmsolver++, its stochastic form for sde-dpmsolver++",
        "beta_end": "noise at the last timestep",
        "beta_schedule": "linear, scaled_linear, squaredcos_cap_v2 or sigmoid; a cosine is warned of where rounding decides in diffusers",
        "beta_start": "noise at the first timestep",
        "dynamic_thresholding_ratio": "of thresholding",
        "final_sigmas_type": "where DPM++ and UniPC end: zero, or sigma_min; zero for Euler",
        "lower_order_final": "of DPM++ 3M; true for UniPC and DEIS",
        "num_train_timesteps": "timesteps",
        "original_inference_steps": "50 for LCM and TCD",
        "prediction_type": "epsilon, v_prediction or sample",
        "rescale_betas_zero_snr": "zero terminal SNR; refused with epsilon",
        "skip_prk_steps": "false for PNDM's Runge-Kutta start, as where a PNDM file says nothing",
        "solver_order": "2 or 3 for DPM++, 1 to 3 for UniPC and DEIS",
        "solver_type": "midpoint or heun for DPM++, bh2 or bh1 for UniPC, logrho for DEIS",
        "sample_max_value": "of thresholding",
        "set_alpha_to_one": "where DDIM and PNDM end",
        "steps_offset": "of leading spacing; absent means 1, as diffusers' pipelines take it",
        "thresholding": "of DDIM, DDPM, DPM++, UniPC, DEIS and LCM; no other class thresholds",
        "timestep_scaling": "10 for LCM and TCD",
        "timestep_spacing": "leading, linspace or trailing; absent means the class' own",
        "trained_betas": "betas one by one, in place of a schedule",
        "use_beta_sigmas": "that spacing, where it is here and the sampler works in sigma",
        "use_exponential_sigmas": "that spacing, where it is here and the sampler works in sigma",
        "use_karras_sigmas": "Karras' spacing, where the sampler works in sigma",
        "use_lu_lambdas": "of DPM++: exponential spacing, and whole timesteps",
        "variance_type": "DDPM's fixed_small or fixed_large; of this without noise after the last step, which is warned of; no effect elsewhere",
    },
    idle={
        "_diffusers_version": BY_WEIGHTS,
        "clip_sample|clip_sample_range": "diffusers' pipelines of latents never clip, whatever it says",
        "euler_at_final": "the last step to zero is Euler's anyway; true with sigma_min is warned of",
        "lambda_min_clipped": "of DPM solvers; not supported where a schedule goes beyond it, as a cosine does",
        "noise_sampler_seed": "of DPM++ SDE; a run's own seed decides",
        "flow_shift|time_shift_type|shift_terminal|use_dynamic_shifting": (
            "of flow matching, which Stable Diffusion is not"
        ),
    },
    lacking={
        "disable_corrector": ([],),
        "interpolation_type": ("linear",),
        "predict_x0": (True,),
        "sigma_max": (None,),
        "sigma_min": (None,),
        "solver_p": (None,),
        "timestep_type": ("discrete",),
        "use_flow_sigmas": (False, None),
    },
)

INDEX = Keys(
    "model_index.json",
    obeyed={
        "scheduler": "the sampler, before the class in scheduler_config.json",
        "sd_scratch": "this package's own: the model's name, its sampler, steps and guidance",
    },
    idle={
        "_class_name|_diffusers_version|_name_or_path": BY_WEIGHTS,
        "text_encoder|tokenizer|unet|vae": "names classes; the folders themselves are read",
        "feature_extractor|safety_checker|requires_safety_checker": "there is no safety checker here",
    },
    warned={"image_encoder": ([None, None], None)},
)

TOKENIZER = Keys(
    "tokenizer/tokenizer_config.json, special_tokens_map.json",
    obeyed={
        "added_tokens_decoder": "tokens of the model's own",
        "pad_token": "what prompts are filled up with: the end token, or ! in Stable Diffusion 2.x",
    },
    idle={
        "add_prefix_space|clean_up_tokenization_spaces|errors|extra_special_tokens": "of other tokenizers",
        "backend|is_local|local_files_only|processor_class|special_tokens_map_file": BY_WEIGHTS,
        "name_or_path|tokenizer_class|tokenizer_file|auto_map": BY_WEIGHTS,
        "additional_special_tokens": "read from the added tokens",
        "bos_token|eos_token|unk_token": "CLIP's marks are looked up by their own names",
        "model_max_length|max_length": "the text encoder's positions decide",
        "padding_side|truncation_side|padding|truncation|stride|pad_to_multiple_of|pad_token_type_id|"
        "pad_token_id|truncation_strategy|padding_strategy": "prompts are filled up and cut at their end",
    },
    warned={"do_lower_case": (True,)},
)

METADATA = Keys(
    "metadata of a single file",
    obeyed={
        "sd_scratch": "the whole configuration, in files that this package wrote",
        "modelspec.prediction_type": "what the network predicts: epsilon or v",
        "modelspec.architecture": "another family is refused by its weights",
    },
    idle={
        "format": "says whose tensors they are: all are laid out alike",
        r"modelspec\..*": "title, author, licence, hashes and such, for people",
        r"ss_.*|sshs_.*": TRAINING,
        r"sd_merge_.*|merge_recipe|merge_models|merged_from|__metadata__": "how it was merged, for people",
    },
)

# Tensors whose names are a message: what a single file's say, and whether that can be had.
MARKERS = Keys(
    "marker tensors of a single file",
    obeyed={
        "v_pred": "the network predicts v",
        "ztsnr": "zero terminal SNR",
        "scaled_fp8": "scales beside fp8 weights (NAME.scale_weight) are applied; they are without it, too",
    },
    idle={},
    lacking={"edm_mean": (), "edm_std": (), "edm_vpred.sigma_max": (), "edm_vpred.sigma_min": ()},
)

TABLES = (SCHEDULER, INDEX, UNET, VAE, TEXT, TOKENIZER, METADATA, MARKERS)


def page() -> str:
    """The tables in Markdown."""
    parts = []
    for keys in TABLES:
        rows = [f"### {keys.title}", "", "| key | here | |", "|---|---|---|"]
        rows += [f"| {_names(key)} | used | {what} |" for key, what in sorted(keys.obeyed.items())]
        rows += [f"| {_names(key)} | no effect | {why} |" for key, why in sorted(keys.idle.items())]
        rows += [
            f"| `{key}` | not supported, {what} | {_but(values)} |"
            for table, what in (
                (keys.lacking, "refused unless a run says otherwise"),
                (keys.warned, "warned of"),
                (keys.refused, "refused"),
            )
            for key, values in sorted(table.items())
        ]
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _names(pattern: str) -> str:
    return ", ".join(f"`{name}`" for name in re.sub(r"\\\.", ".", pattern).split("|"))


def _but(values: Sequence[object]) -> str:
    names = {True: "true", False: "false", None: "null"}
    shown = {names.get(v, str(v)) if isinstance(v, bool) or v is None else str(v) for v in values}
    return f"except {', '.join(sorted(shown))}" if shown else ""
