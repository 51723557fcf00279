"""The peer of bench/suites/cpu.mjs: transformers and PEFT on the CPU in fp32, with random weights."""
import peer_protocol  # first: takes stdout
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM


def build(shape):
    sizes = {key: value for key, value in shape.items() if key not in ("model_type", "dtype")}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**sizes, attn_implementation="sdpa", eos_token_id=None))


def forward(model, ids):
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def decode(model, prompt, length):
    model.generate(input_ids=prompt, max_new_tokens=length, min_new_tokens=length, do_sample=False)


def lora_step(model):
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM"))
    adapters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(adapters, lr=1e-4)

    def step(ids):
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(adapters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(case):
    model = build(case["model"])
    ids = torch.randint(0, case["model"]["vocab_size"], (case["rows"], case["length"]))
    if case["work"] == "forward":
        work = lambda: forward(model, ids)
    elif case["work"] == "decode":
        work = lambda: decode(model, ids[:, :16], case["length"])
    else:
        step = lora_step(model)
        work = lambda: step(ids)
    return {"milliseconds": peer_protocol.median_milliseconds(work, 5)}


peer_protocol.serve(measure)
