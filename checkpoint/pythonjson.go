package checkpoint

import "strings"

// StandardJSON returns JSON that Python's json may have written as JSON. That
// has the words Infinity, -Infinity and NaN for numbers (of a config.json:
// Mamba 2's "time_step_limit": [0.0, Infinity]). The infinities become ±1e999,
// which is too large for any float and which Python reads as the infinity
// again; NaN, for which there is no number, becomes null. All else stays byte
// for byte: text without these words is returned itself.
func StandardJSON(text []byte) []byte {
	var out []byte
	from := 0 // what of text is not in out yet
	for at := 0; at < len(text); {
		switch c := text[at]; {
		case c == '"':
			at = endOfString(text, at)
		case !inWord(c):
			at++
		default:
			start := at
			for at < len(text) && inWord(text[at]) {
				at++
			}
			if number, ok := pythonNumbers[string(text[start:at])]; ok {
				if out == nil {
					out = make([]byte, 0, len(text)+len(text)/4+1) // "NaN," grows most
				}
				out = append(append(out, text[from:start]...), number...)
				from = at
			}
		}
	}
	if from == 0 {
		return text
	}
	return append(out, text[from:]...)
}

// pythonNumbers are the words, and what they become.
var pythonNumbers = map[string]string{"Infinity": "1e999", "-Infinity": "-1e999", "NaN": "null"}

// inWord says whether a byte of JSON, outside of a string, is of a number or
// of a word.
func inWord(c byte) bool { return strings.IndexByte(" \t\r\n,:[]{}\"", c) < 0 }

// endOfString returns where the text goes on after the string that begins at
// start.
func endOfString(text []byte, start int) int {
	for at := start + 1; at < len(text); at++ {
		switch text[at] {
		case '\\':
			at++
		case '"':
			return at + 1
		}
	}
	return len(text)
}
