package job

import "math/bits"

// set is a set of small numbers in order: a bitmap with a bitmap over its
// non-zero words, and so on up to one word. Every operation costs
// log64 of the largest number. The zero value is empty.
type set struct {
	levels [][]uint64 // levels[0] is the bitmap, the last level one word
}

// reserve makes room for numbers below n.
func (s *set) reserve(n int) {
	if len(s.levels) > 0 && n <= 64*len(s.levels[0]) {
		return
	}
	var old []uint64
	if len(s.levels) > 0 {
		old = s.levels[0]
		n = max(n, 128*len(old))
	}
	s.levels = nil
	for words := max(n, 1); len(s.levels) == 0 || words > 1; {
		words = (words + 63) / 64
		s.levels = append(s.levels, make([]uint64, words))
	}
	for w, word := range old {
		for ; word != 0; word &= word - 1 {
			s.add(w<<6 + bits.TrailingZeros64(word))
		}
	}
}

func (s *set) add(i int) {
	s.reserve(i + 1)
	for _, level := range s.levels {
		level[i>>6] |= 1 << (i & 63)
		i >>= 6
	}
}

func (s *set) remove(i int) {
	for _, level := range s.levels {
		if i>>6 >= len(level) {
			return
		}
		level[i>>6] &^= 1 << (i & 63)
		if level[i>>6] != 0 {
			return
		}
		i >>= 6
	}
}

// next returns the smallest number in the set that is not below i, or -1.
func (s *set) next(i int) int {
	for l := 0; l < len(s.levels) && i>>6 < len(s.levels[l]); l++ {
		if rest := s.levels[l][i>>6] >> (i & 63); rest != 0 {
			i += bits.TrailingZeros64(rest)
			for ; l > 0; l-- {
				i = i<<6 + bits.TrailingZeros64(s.levels[l-1][i])
			}
			return i
		}
		i = i>>6 + 1
	}
	return -1
}

// after returns the first number after i, going round, or -1 if there is none.
func (s *set) after(i int) int {
	if n := s.next(i + 1); n >= 0 {
		return n
	}
	return s.next(0)
}

// last returns the largest number, or -1.
func (s *set) last() int {
	if len(s.levels) == 0 {
		return -1
	}
	return s.before(64 * len(s.levels[0]))
}

// before returns the largest number in the set that is below i, or -1.
func (s *set) before(i int) int {
	for l := 0; l < len(s.levels) && i > 0; l++ {
		i--
		if i>>6 >= len(s.levels[l]) {
			i = 64*len(s.levels[l]) - 1
		}
		if rest := s.levels[l][i>>6] << (63 - i&63); rest != 0 {
			i -= bits.LeadingZeros64(rest)
			for ; l > 0; l-- {
				i = i<<6 + 63 - bits.LeadingZeros64(s.levels[l-1][i])
			}
			return i
		}
		i >>= 6
	}
	return -1
}

func (s *set) empty() bool { return s.next(0) < 0 }
