"""Write tests/data/adapters: small adapters of tiny models, and what the reference makes of them.

Run by hand, with peft 0.21, transformers 5.24 and torch 2.13:

    python tests/adapter_goldens.py [NAME …]
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

DATA = Path(__file__).parent / "data"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LINEAR = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "plain": ("llama", {"target_modules": LINEAR, "lora_alpha": 8}),
    "patterns": (
        "llama",
        {
            "target_modules": LINEAR,
            "lora_alpha": 6,
            "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 3},
            "alpha_pattern": {
                "^model.layers.0.self_attn.v_proj": 1,
                r"layers\.\d\.mlp\.up_proj": 9,
            },
        },
    ),
    "stabilised": (
        "qwen2",
        {"target_modules": ATTENTION, "lora_alpha": 5, "use_rslora": True, "bias": "all"},
    ),
    "head": ("qwen3", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "fused": ("phi3", {"target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]}),
    "lengths": ("qwen2", {"target_modules": LINEAR, "lora_alpha": 8, "use_dora": True}),
    "tables": (
        "gemma3",
        {"target_modules": ["embed_tokens", "v_proj"], "modules_to_save": ["norm", "q_norm"]},
    ),
    "tokens": ("qwen3", {"target_modules": ["q_proj"], "trainable_token_indices": [300, 363, 5]}),
}
NUM_POSITIONS, NUM_GREEDY = 16, 24


def base_of(family: str) -> torch.nn.Module:
    """Open a tiny model."""
    return AutoModelForCausalLM.from_pretrained(DATA / f"tiny-{family}", dtype=torch.float32).eval()


def trained(family: str, settings: dict[str, object], folder: Path) -> None:
    """Write an adapter of chance."""
    torch.manual_seed(len(folder.name))
    model = get_peft_model(base_of(family), LoraConfig(**({"r": 4} | settings)))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                size = 0.3 if "lora_" in name or "tokens" in name else 0.1
                weight.add_(
                    torch.randn_like(weight) * size * weight.std().nan_to_num(0.1).clamp(0.1)
                )
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": f"org/tiny-{family}"}
    path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def expect(family: str, folder: Path) -> None:
    """Write logits and a greedy completion with the adapter at work beside its base."""
    known = np.load(DATA / f"tiny-{family}/expected.npz")
    model = PeftModel.from_pretrained(base_of(family), folder).eval()
    ids, prompt = known["input_ids"][:NUM_POSITIONS], known["greedy_prompt"]
    with torch.no_grad():
        logits = model(torch.tensor(ids[None])).logits[0].numpy()
        before = base_of(family)(torch.tensor(ids[None])).logits[0].numpy()
        tokens, margins = prompt.tolist(), []
        for _ in range(NUM_GREEDY):
            last = model(torch.tensor([tokens])).logits[0, -1]
            best = last.topk(2).values
            margins.append(float(best[0] - best[1]))
            tokens.append(int(last.argmax()))
    # A tie would be broken by chance, and an adapter that changes little proves little.
    changed, margin = float(np.abs(logits - before).max()), min(margins)
    assert changed > 0.05, (folder.name, changed)
    assert margin > 0.002, (folder.name, margin)
    completion = np.array(tokens[len(prompt) :])
    np.savez_compressed(
        folder / "expected.npz",
        input_ids=ids,
        logits=logits.astype(np.float32),
        greedy_prompt=prompt,
        greedy_completion=completion,
    )


if __name__ == "__main__":
    for name in sys.argv[1:] or ADAPTERS:
        family, settings = ADAPTERS[name]
        folder = DATA / "adapters" / name
        shutil.rmtree(folder, ignore_errors=True)
        trained(family, settings, folder)
        expect(family, folder)
