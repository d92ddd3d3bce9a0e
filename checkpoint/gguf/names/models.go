package names

// tables are the architectures that are known. Two with the same name in GGUF
// differ in whether they have experts.
var tables = []*Table{
	table("llama", "llama", interleaved(decoder)),
	table("llama", "mistral", interleaved(decoder)),
	table("llama", "mixtral", interleaved(mixtral)),
	table("granite", "granite", interleaved(decoder)),
	table("smollm3", "smollm3", interleaved(decoder)),
	table("qwen2", "qwen2", decoder),
	table("qwen3", "qwen3", decoder),
	table("qwen2moe", "qwen2_moe", qwenMoE),
	table("qwen3moe", "qwen3_moe", qwenMoE),
	table("gemma", "gemma", shifted(decoder)),
	table("gemma2", "gemma2", shifted(sandwich)),
	table("gemma3", "gemma3_text", shifted(sandwich)),
	table("olmo2", "olmo2", olmo2),
	table("phi2", "phi", phi2),
	table("phi3", "phi3", phi3),
	table("stablelm", "stablelm", decoder),
	table("starcoder2", "starcoder2", starcoder2),
	table("gpt2", "gpt2", gpt2),
	table("bert", "bert", bert),
}

// ForGGUF returns the table of what a GGUF file's general.architecture says.
// experts is its ARCH.expert_count: files of Llama and of Mixtral have the same
// architecture. It is nil where there is none.
func ForGGUF(arch string, experts int64) *Table {
	if arch == "llama" && experts > 0 {
		return ForModel("mixtral")
	}
	for _, t := range tables {
		if t.arch == arch {
			return t
		}
	}
	return nil
}

// ForModel returns the table of a config.json's model_type, nil where there is
// none.
func ForModel(model string) *Table {
	for _, t := range tables {
		if t.model == model {
			return t
		}
	}
	return nil
}

func table(arch, model string, f family) *Table {
	f.toGlobal, f.toLayer = turn(f.global), turn(f.layer)
	return &Table{family: f, arch: arch, model: model}
}

func interleaved(f family) family { f.interleaved = true; return f }

func shifted(f family) family { f.shifted = true; return f }

func turn(m map[string]string) map[string]string {
	back := make(map[string]string, len(m))
	for k, v := range m {
		back[v] = k
	}
	return back
}
