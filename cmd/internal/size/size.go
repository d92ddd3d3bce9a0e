// Package size reads and writes numbers of bytes as people do: 8GiB, 256MiB.
package size

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/gantry-ml/gantry/recovery"
)

var units = []struct {
	name  string
	bytes float64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"kB", 1e3}, {"B", 1},
}

// Parse reads a size: a number of bytes, or a number with a unit (B, KB, MB,
// GB, TB, KiB, MiB, GiB, TiB), such as "1.5GiB".
func Parse(s string) (int64, error) {
	num, unit := strings.TrimSpace(s), 1.0
	for _, u := range units {
		if n, ok := strings.CutSuffix(num, u.name); ok {
			num, unit = strings.TrimSpace(n), u.bytes
			break
		}
	}
	f, err := strconv.ParseFloat(num, 64)
	if err != nil || f < 0 || math.IsNaN(f) || f*unit >= math.MaxInt64 {
		return 0, recovery.Errorf(recovery.Usage, "%q is not a size: want a number and a unit, such as 512MiB or 8GiB", s)
	}
	return int64(f * unit), nil
}

// Format writes a size with a binary unit and at most two decimals.
func Format(n int64) string {
	for _, u := range units[:4] {
		if float64(n) >= u.bytes {
			return fmt.Sprintf("%.2f %s", float64(n)/u.bytes, u.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}

// Bytes is a size as a command-line flag: it implements pflag.Value.
type Bytes int64

// String writes the size as Set reads it.
func (b *Bytes) String() string {
	n := int64(*b)
	for _, u := range units[:4] {
		if w := int64(u.bytes); n >= w && n%w == 0 {
			return fmt.Sprintf("%d%s", n/w, u.name)
		}
	}
	return strconv.FormatInt(n, 10)
}

// Set reads a size.
func (b *Bytes) Set(s string) error {
	n, err := Parse(s)
	*b = Bytes(n)
	return err
}

// Type names the value in help texts.
func (*Bytes) Type() string { return "SIZE" }
