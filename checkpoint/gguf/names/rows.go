package names

// Rotary embeddings turn pairs of a head's elements. transformers pairs the
// two halves of a head, element i with i + head/2; llama.cpp pairs neighbours
// in the Llama family, 2i with 2i + 1. Its converter reorders the rows of the
// query and key projections, and their biases, so that both mean the same
// (LlamaModel.permute). head is the number of rows of one head, an even one.

// ToGGUF returns which row of a GGUF tensor holds a row of Hugging Face's.
func ToGGUF(row, head int64) int64 {
	first, at := row-row%head, row%head
	half, i := at/(head/2), at%(head/2)
	return first + 2*i + half
}

// FromGGUF returns which row of Hugging Face's a GGUF tensor's row holds.
func FromGGUF(row, head int64) int64 {
	first, at := row-row%head, row%head
	return first + at%2*(head/2) + at/2
}
