package vocab

// Regular expressions by which byte-level tokenizers split text, as their
// tokenizer.json has them, and what llama.cpp calls the way
// (llama_vocab::impl::load in src/llama-vocab.cpp, which has each expression).
var prePatterns = map[string]string{
	// Llama 3; also what cl100k does
	`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`: "llama-bpe",
	// Qwen 2 and 3: digits one by one
	`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`: "qwen2",
	// Mistral Nemo
	`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`: "tekken",
	// o200k: Phi-4 mini, gpt-oss
	`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`: "gpt-4o",
}

// preOf names the way in which the steps before byte-level BPE split text.
// known is false where it is none that is listed: then the name is "default".
func preOf(steps []component) (name string, known bool) {
	digits, split := false, ""
	for _, s := range steps {
		switch s.Type {
		case "Digits":
			digits = s.Individual
		case "Split":
			if split != "" { // several, as DeepSeek has them
				return "default", false
			}
			split = s.Pattern.Regex + s.Pattern.String
		case "ByteLevel":
			// Its own expression is GPT-2's, unless it is told to have none.
			own := s.UseRegex == nil || *s.UseRegex
			switch name := prePatterns[split]; {
			case split != "" && !own && name != "" && !digits:
				return name, true
			case split == "" && own && digits:
				return "starcoder", true
			case split == "" && own:
				return "gpt-2", true
			}
			return "default", false
		default:
			return "default", false
		}
	}
	return "default", false
}
