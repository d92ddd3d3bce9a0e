// Package hparams turns a Hugging Face config.json into what a GGUF file says of
// a model besides its tensors and its vocabulary: the keys ARCH.* of the GGUF
// specification, and the factors of rotary embeddings that llama.cpp keeps as
// tensors. model calls it when it writes a GGUF file.
//
// Which key comes from which field is taken from llama.cpp's converter
// (conversion/*.py of github.com/ggml-org/llama.cpp) and from transformers'
// configuration_*.py, where the defaults stand.
package hparams
