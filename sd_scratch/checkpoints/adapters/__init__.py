"""Small files that change a model: LoRA and its relatives, and textual inversions.

tensor_file   tensors out of a `.safetensors` file or a pickle, checked
names         what other programs call our networks' modules
changes       the arithmetic: low rank, Hadamard, Kronecker, decomposed, plain differences
embedding     a file to new words
control       a ControlNet's file to its network
t2i           a T2I-Adapter's names and sizes
lora          a file to a `Lora`: every key used or named
apply         a model with adapters, beside the one without
"""
