package safetensors

import (
	"fmt"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/gantry-ml/gantry/recovery"
)

// maxDepth is how deeply objects and arrays may nest; the reference has the
// same bound, whatever lies in the innermost.
const maxDepth = 127

// scanner reads JSON as strictly as the reference's parser does.
// encoding/json would not do: it mends lone surrogates and bad UTF-8, matches
// keys whatever their case and lets duplicates pass. The text must be valid
// UTF-8.
type scanner struct {
	b    []byte
	pos  int
	base int64 // offset of b in the file, for errors
}

// fail returns an invalid_checkpoint error at the current position.
func (s *scanner) fail(format string, args ...any) error {
	e := recovery.Errorf(recovery.InvalidCheckpoint, format, args...)
	e.Op, e.Offset, e.Length = "parse", s.base+int64(s.pos), 1
	return e
}

func (s *scanner) space() {
	for s.pos < len(s.b) {
		switch s.b[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// peek returns the next byte after white space, 0 at the end (a NUL starts no
// value either).
func (s *scanner) peek() byte {
	s.space()
	if s.pos == len(s.b) {
		return 0
	}
	return s.b[s.pos]
}

func (s *scanner) expect(c byte) error {
	if got := s.peek(); got != c {
		return s.unexpected("'" + string(c) + "'")
	}
	s.pos++
	return nil
}

func (s *scanner) unexpected(want string) error {
	if s.peek() == 0 && s.pos == len(s.b) {
		return s.fail("the JSON ends where %s is expected", want)
	}
	r, _ := utf8.DecodeRune(s.b[s.pos:])
	return s.fail("%q in the JSON where %s is expected", r, want)
}

// end fails where anything but white space follows.
func (s *scanner) end() error {
	if s.peek() != 0 || s.pos != len(s.b) {
		return s.unexpected("the end")
	}
	return nil
}

// object calls field for each key, at the position of its value, which field
// must consume. The key is a part of the text.
func (s *scanner) object(field func(key []byte) error) error {
	if err := s.expect('{'); err != nil {
		return err
	}
	for first := true; ; first = false {
		if first && s.peek() == '}' {
			s.pos++
			return nil
		}
		key, err := s.str()
		if err != nil {
			return err
		}
		if err := s.expect(':'); err != nil {
			return err
		}
		if err := field(key); err != nil {
			return err
		}
		switch s.peek() {
		case ',':
			s.pos++
		case '}':
			s.pos++
			return nil
		default:
			return s.unexpected("',' or '}'")
		}
	}
}

// array calls element for each element, at its position.
func (s *scanner) array(element func(i int) error) error {
	if err := s.expect('['); err != nil {
		return err
	}
	if s.peek() == ']' {
		s.pos++
		return nil
	}
	for i := 0; ; i++ {
		if err := element(i); err != nil {
			return err
		}
		switch s.peek() {
		case ',':
			s.pos++
		case ']':
			s.pos++
			return nil
		default:
			return s.unexpected("',' or ']'")
		}
	}
}

// str reads a string. What it returns is a part of the text, in which escapes
// have been decoded: they are longer than what they stand for.
func (s *scanner) str() ([]byte, error) {
	if s.peek() != '"' {
		return nil, s.unexpected("a string")
	}
	s.pos++
	start := s.pos
	end, plain := start, start // b[start:end] is decoded, b[plain:pos] is still to be moved there
	for s.pos < len(s.b) {
		switch c := s.b[s.pos]; {
		case c == '"':
			if end == plain { // no escapes
				end = s.pos
			} else {
				end += copy(s.b[end:], s.b[plain:s.pos])
			}
			s.pos++
			return s.b[start:end], nil
		case c < 0x20:
			return nil, s.fail("control character %#02x in a string", c)
		case c == '\\':
			end += copy(s.b[end:], s.b[plain:s.pos])
			s.pos++
			r, err := s.escape()
			if err != nil {
				return nil, err
			}
			end += utf8.EncodeRune(s.b[end:s.pos], r)
			plain = s.pos
		default:
			s.pos++
		}
	}
	return nil, s.fail("the JSON ends inside a string")
}

// escape reads what follows a backslash.
func (s *scanner) escape() (rune, error) {
	if s.pos == len(s.b) {
		return 0, s.fail("the JSON ends inside a string")
	}
	c := s.b[s.pos]
	s.pos++
	switch c {
	case '"', '\\', '/':
		return rune(c), nil
	case 'b':
		return '\b', nil
	case 'f':
		return '\f', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'u':
		r, err := s.hex4()
		if err != nil || !utf16.IsSurrogate(r) {
			return r, err
		}
		if s.pos+1 < len(s.b) && s.b[s.pos] == '\\' && s.b[s.pos+1] == 'u' {
			s.pos += 2
			low, err := s.hex4()
			if err != nil {
				return 0, err
			}
			if full := utf16.DecodeRune(r, low); full != utf8.RuneError {
				return full, nil
			}
		}
		return 0, s.fail("lone surrogate \\u%04x in a string", r)
	}
	s.pos--
	return 0, s.fail("unknown escape in a string")
}

func (s *scanner) hex4() (rune, error) {
	if s.pos+4 > len(s.b) {
		return 0, s.fail("the JSON ends inside a string")
	}
	n, err := strconv.ParseUint(string(s.b[s.pos:s.pos+4]), 16, 16)
	if err != nil {
		return 0, s.fail("bad \\u escape in a string")
	}
	s.pos += 4
	return rune(n), nil
}

// number reads a number's text; integer reports that it has neither sign nor
// fraction nor exponent.
func (s *scanner) number() (text []byte, integer bool, err error) {
	s.space()
	start := s.pos
	integer = true
	if s.next('-') {
		integer = false
	}
	switch {
	case s.next('0'):
	case s.digits() == 0:
		return nil, false, s.unexpected("a number")
	}
	if s.next('.') {
		integer = false
		if s.digits() == 0 {
			return nil, false, s.fail("a number without digits after its point")
		}
	}
	if s.next('e') || s.next('E') {
		integer = false
		if !s.next('+') {
			s.next('-')
		}
		if s.digits() == 0 {
			return nil, false, s.fail("a number without digits in its exponent")
		}
	}
	return s.b[start:s.pos], integer, nil
}

func (s *scanner) next(c byte) bool {
	if s.pos < len(s.b) && s.b[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

func (s *scanner) digits() (n int) {
	for s.pos < len(s.b) && s.b[s.pos]-'0' <= 9 {
		s.pos++
		n++
	}
	return n
}

// uint reads a whole number from 0 to 2^64-1.
func (s *scanner) uint() (uint64, error) {
	s.space()
	at := s.pos
	text, integer, err := s.number()
	if err != nil {
		return 0, err
	}
	n := uint64(0)
	for _, c := range text {
		d := uint64(c - '0')
		if !integer || n > (math.MaxUint64-d)/10 {
			s.pos = at
			return 0, s.fail("%.40s is no whole number from 0 to 2^64-1", text)
		}
		n = n*10 + d
	}
	return n, nil
}

// skip reads any value, which is the depth-th where it is an object or array
// in others, and checks its form.
func (s *scanner) skip(depth int) error {
	c := s.peek()
	if depth > maxDepth && (c == '{' || c == '[') {
		return s.fail("values nest deeper than %d", maxDepth)
	}
	switch c {
	case '{':
		return s.object(func([]byte) error { return s.skip(depth + 1) })
	case '[':
		return s.array(func(int) error { return s.skip(depth + 1) })
	case '"':
		_, err := s.str()
		return err
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	}
	text, _, err := s.number()
	if err != nil {
		return err
	}
	if _, err := strconv.ParseFloat(string(text), 64); err != nil {
		return s.fail("number %.40s is out of range", text)
	}
	return nil
}

// literal reads true, false or null.
func (s *scanner) literal(word string) error {
	s.space()
	if len(s.b)-s.pos < len(word) || string(s.b[s.pos:s.pos+len(word)]) != word {
		return s.unexpected(fmt.Sprintf("%q", word))
	}
	s.pos += len(word)
	return nil
}
