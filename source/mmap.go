package source

import (
	"context"
	"errors"
	"os"
	"runtime/debug"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapped is a local file in memory.
type mapped struct {
	*pread
	data  []byte // nil for an empty file, which cannot be mapped
	asked bool   // for a mapping, so that nothing is read with pread
}

// mapFile maps what p opened, and owns it from then on.
func mapFile(p *pread, asked bool) (Reader, error) {
	m := &mapped{pread: p, asked: asked}
	if p.file.Size > 0 {
		data, err := unix.Mmap(int(p.f.Fd()), 0, int(p.file.Size), unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			p.Close()
			return nil, fileError("map", p.path, err)
		}
		m.data = data
	}
	return m, nil
}

// mappable reports whether f lies on a file system whose mappings notice
// changes: not one that fetches pages from another machine or a process.
func mappable(f *os.File) bool {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return false
	}
	switch int64(st.Type) {
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC,
		unix.CEPH_SUPER_MAGIC, unix.V9FS_MAGIC, unix.FUSE_SUPER_MAGIC, unix.AFS_SUPER_MAGIC, unix.CODA_SUPER_MAGIC:
		return false
	}
	return true
}

var page = int64(os.Getpagesize())

// warmSamples is how many pages of a range Warm looks at: readahead and
// eviction work on runs of pages, and a look at each of them would cost a
// twentieth of the load.
const warmSamples = 8

// Warm implements Mapper. It is a guess: pages that are not there are faulted
// in by Range, which is slow and no error.
func (m *mapped) Warm(off, n int64) bool { return m.asked || n == 0 || m.resident(off, n) }

// resident looks at samples of n bytes from off, at least one.
func (m *mapped) resident(off, n int64) bool {
	if !m.holds(off, n) {
		return false
	}
	for i := range int64(warmSamples) {
		at := (off + (n-1)*i/(warmSamples-1)) / page * page
		var state byte
		if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m.data[at])), uintptr(page), uintptr(unsafe.Pointer(&state))); errno != 0 || state&1 == 0 {
			return false
		}
	}
	return true
}

// Prepare implements Mapper. A kernel before 5.14 has no call for it, and what
// cannot be mapped faults when it is read: both are no errors here. Nor is
// anything done where the bytes would have to be read first.
//
// The call is made as a fault would do its work, without a word to the runtime:
// told of calls that take longer than 20 µs it gives the processor to another
// thread each time, and looks for more of them all the while.
func (m *mapped) Prepare(off, n int64) {
	if !m.holds(off, n) || m.asked && !m.resident(off, n) { // else Warm has just looked
		return
	}
	b := m.data[off/page*page : off+n]
	_, _, _ = unix.RawSyscall(unix.SYS_MADVISE, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MADV_POPULATE_READ)
}

// holds says whether n bytes from off, at least one, are in the file.
func (m *mapped) holds(off, n int64) bool {
	size := int64(len(m.data))
	return off >= 0 && n > 0 && n <= size && off <= size-n
}

// Range implements Mapper.
func (m *mapped) Range(off, n int64) ([]byte, error) {
	if err := m.check(context.Background(), off, n); err != nil {
		return nil, err
	}
	return m.data[off : off+n : off+n], nil
}

// ReadAt copies out of the mapping where one was asked for. A page that is
// gone because the file shrank is an error, not a crash.
func (m *mapped) ReadAt(ctx context.Context, p []byte, off int64) (err error) {
	if !m.asked {
		return m.pread.ReadAt(ctx, p, off)
	}
	if err := m.check(ctx, off, int64(len(p))); err != nil {
		return err
	}
	if err := copyOut(p, m.data[off:]); err != nil {
		return m.changed(off, int64(len(p)), err)
	}
	return m.Verify()
}

// copyOut copies len(dst) bytes from mapped memory. It is a function of its
// own so that it recovers from nothing but that copy.
func copyOut(dst, src []byte) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			err = errors.New("a page of the file cannot be read: it was cut short, or its device failed")
		}
	}()
	copy(dst, src)
	return nil
}

// Close unmaps the file: slices from Range must not be used any more. Nobody
// waits for that, which takes some 10 ms for each GiB that was read.
func (m *mapped) Close() error {
	if data := m.data; data != nil {
		m.data = nil
		go func() {
			if err := unix.Munmap(data); err != nil {
				panic(err) // it was mapped as it is unmapped
			}
		}()
	}
	return m.pread.Close()
}
