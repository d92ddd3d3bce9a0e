package size

import "testing"

func TestParse(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "17": 17, "1KiB": 1024, "1 KiB": 1024, "1.5GiB": 3 << 29, "2MB": 2e6, "256MiB": 256 << 20, "3B": 3,
	} {
		if got, err := Parse(in); err != nil || got != want {
			t.Errorf("Parse(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "GiB", "-1", "1XB", "9e30GiB", "NaN", "1 2"} {
		if got, err := Parse(in); err == nil {
			t.Errorf("Parse(%q) = %d, want an error", in, got)
		}
	}
}

func TestBytesReadsWhatItWrites(t *testing.T) {
	for _, n := range []int64{0, 1, 1023, 1 << 10, 3 << 29, 1 << 40, 123456789} {
		b := Bytes(n)
		var c Bytes
		if err := c.Set(b.String()); err != nil || c != b {
			t.Errorf("%d is written %q and read %d, %v", n, b.String(), c, err)
		}
	}
}
