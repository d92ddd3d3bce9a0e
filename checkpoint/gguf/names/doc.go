// Package names translates between GGUF files and Hugging Face checkpoints:
// what a tensor is called on either side, and what llama.cpp's converter does
// to a tensor's rows and values on the way. It is tables and pure functions,
// for both directions: checkpoint reads by it, and whoever writes GGUF writes
// by it, so that layout rules are written once, in Hugging Face's terms.
//
// The facts are those of llama.cpp's gguf-py/gguf/tensor_mapping.py,
// gguf-py/gguf/constants.py and conversion/*.py (convert_hf_to_gguf.py), and
// the module names of transformers' modeling_*.py.
package names
