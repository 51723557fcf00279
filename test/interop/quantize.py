"""Saves a small random Llama in NF4, as transformers and bitsandbytes do. usage: quantize.py OUTPUT_DIR double|single"""
import sys
import tempfile

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

output_dir, scales = sys.argv[1:3]
torch.manual_seed(0)
sizes = dict(vocab_size=160, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
# Rows of a multiple of 64: bitsandbytes 0.50 dequantises others wrongly on CPUs with AVX-512.
plain = LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=192, initializer_range=0.2, pad_token_id=0))
config = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=scales == "double",
    bnb_4bit_compute_dtype=torch.float32,
)
with tempfile.TemporaryDirectory() as folder:
    plain.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.float32)
    model.save_pretrained(output_dir)
