// Package vocab turns a Hugging Face checkpoint's tokenizer files into the
// metadata by which llama.cpp tokenizes (the keys tokenizer.* of the GGUF
// specification): tokenizer.model, a SentencePiece model; else tokenizer.json,
// byte-level BPE, or BPE or Unigram over SentencePiece's pieces. It reads bytes
// that it is given, opens nothing and tokenizes nothing. model calls it when it
// writes a GGUF file; docs/reference.md lists what comes from where.
package vocab
