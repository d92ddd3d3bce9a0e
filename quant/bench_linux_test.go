package quant

import (
	"os"

	"golang.org/x/sys/unix"
)

// adviseHuge asks for huge pages under b, as the loader's memory has them.
func adviseHuge(b []byte) {
	page := os.Getpagesize()
	_ = unix.Madvise(b[:len(b)/page*page], unix.MADV_HUGEPAGE) // without them it is only slower
}
