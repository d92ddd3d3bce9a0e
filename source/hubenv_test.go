package source

import "testing"

func TestParseHub(t *testing.T) {
	for uri, want := range map[string]hubName{
		"hf://org/name":                          {"org", "name", "main", ""},
		"hf://org/name@v1.0":                     {"org", "name", "v1.0", ""},
		"hf://org/name@refs/pr/1":                {"org", "name", "refs/pr/1", ""},
		"hf://org/name@feature/x":                {"org", "name", "feature/x", ""},
		"hf://org/name/q8_0.gguf":                {"org", "name", "main", "q8_0.gguf"},
		"hf://org/name/onnx/model.onnx":          {"org", "name", "main", "onnx/model.onnx"},
		"hf://org/name@v1/q8_0.gguf":             {"org", "name", "v1", "q8_0.gguf"},
		"hf://org/name@refs/pr/1/sub/q8_0.gguf":  {"org", "name", "refs/pr/1", "sub/q8_0.gguf"},
		"hf://org/name@main/sub/x.safetensors":   {"org", "name", "main", "sub/x.safetensors"},
		"hf://org":                               {},
		"hf://org/":                              {},
		"hf://org/name@":                         {},
		"hf://org/name/":                         {"org", "name", "main", ""},
		"hf://org/name/README.md":                {},
		"hf://org/name/../x.gguf":                {},
		"hf://org/name@../x":                     {},
		"hf://org/name/x.gguf?token=a":           {},
		"hf://user:secret@org/name":              {},
		"hf://org/name@refs/pr/../../a/b/x.gguf": {},
	} {
		got, err := parseHub(uri)
		if got != want || (err == nil) != (want != hubName{}) {
			t.Errorf("%s: %+v, %v, want %+v", uri, got, err, want)
		}
		if err == nil {
			if again, err := parseHub(got.String()); err != nil || again != got {
				t.Errorf("%s: its URI %s is %+v, %v", uri, got, again, err)
			}
		}
	}
}
