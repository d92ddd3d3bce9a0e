package transfer

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"unicode/utf8"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// A stream is one direction of one pair of workers. The dialer sends hello,
// the listener answers with its own, so that versions that do not fit are
// named and not guessed. The dialer shows a probe of its memory, and is told
// whether the listener can read it. Then come frames: a ticket, its payload at
// once, the next ticket. Results come back in the same order. Where memory can
// be read, a count of places follows the ticket, and they stand for the
// payload; the count 0 says that it follows after all.
//
// The payload does not wait for a grant. A refusal is rare (it takes a lost
// worker or a doubled message) and wastes one piece, which the receiver reads
// and drops; a grant would cost every piece a round trip.
//
// All integers are little-endian.
const hello = "GANTRYX\x05" // the last byte is the version

// Limits of what a peer may claim. Nothing is allocated by MaxPiece: it only
// bounds how long a refused payload is read and dropped.
const (
	MaxPiece   = 1 << 30 // bytes of one piece
	maxJob     = 255     // bytes of a job id
	maxClass   = 64      // bytes of an error class
	maxMessage = 2048    // bytes of an error's text
	maxPlaces  = 4096    // in a sender's memory, of one piece
)

// Sizes of the fixed parts of frames.
const (
	ticketBytes = 5*8 + 2*4 + 16 + 4*8 + 1 + 1 // attempt, serial, epoch, generation, bytes; chunk, rank; digest; tally; verified; length of job
	resultBytes = 1 + 1 + 2                    // status; length of class; length of message
	probeBytes  = 4 + 8 + 16                   // process; address; number
	placeBytes  = 8 + 8                        // address; length
)

// Statuses of a result.
const (
	statusPlaced byte = iota
	statusFailed
)

// appendTicket appends t's frame header to b.
func appendTicket(b []byte, t Ticket) ([]byte, error) {
	switch {
	case len(t.Job) > maxJob:
		return b, recovery.Errorf(recovery.Usage, "transfer: job id of %d bytes, more than %d", len(t.Job), maxJob)
	case t.Bytes < 0 || t.Bytes > MaxPiece:
		return b, recovery.Errorf(recovery.Usage, "transfer: piece of %d bytes, more than %d", t.Bytes, MaxPiece)
	case t.Chunk < 0 || t.Chunk > 1<<31-1 || t.Rank < 0 || t.Rank > 1<<31-1:
		return b, recovery.Errorf(recovery.Usage, "transfer: chunk %d of rank %d is not a piece", t.Chunk, t.Rank)
	}
	le := binary.LittleEndian
	b = le.AppendUint64(b, t.Attempt)
	b = le.AppendUint64(b, t.Serial)
	b = le.AppendUint64(b, t.Epoch)
	b = le.AppendUint64(b, t.Generation)
	b = le.AppendUint64(b, uint64(t.Bytes))
	b = le.AppendUint32(b, uint32(t.Chunk))
	b = le.AppendUint32(b, uint32(t.Rank))
	b = append(b, t.Digest[:]...)
	for _, n := range []int64{t.Stored.All.NaN, t.Stored.All.Inf, t.Stored.Once.NaN, t.Stored.Once.Inf} {
		b = le.AppendUint64(b, uint64(n))
	}
	verified := byte(0)
	if t.Verified {
		verified = 1
	}
	b = append(b, verified, byte(len(t.Job)))
	return append(b, t.Job...), nil
}

// readTicket reads a ticket. io.EOF means that the stream ended between
// frames, as it should.
func readTicket(r io.Reader) (Ticket, error) {
	var buf [ticketBytes + maxJob]byte
	b := buf[:ticketBytes]
	if _, err := io.ReadFull(r, b); err != nil {
		return Ticket{}, err
	}
	le := binary.LittleEndian
	t := Ticket{
		Attempt:    le.Uint64(b),
		Serial:     le.Uint64(b[8:]),
		Epoch:      le.Uint64(b[16:]),
		Generation: le.Uint64(b[24:]),
		Chunk:      int(le.Uint32(b[40:])),
		Rank:       int(le.Uint32(b[44:])),
		Digest:     [16]byte(b[48:64]),
		Stored: dtype.Tally{
			All:  dtype.NonFinite{NaN: int64(le.Uint64(b[64:])), Inf: int64(le.Uint64(b[72:]))},
			Once: dtype.NonFinite{NaN: int64(le.Uint64(b[80:])), Inf: int64(le.Uint64(b[88:]))},
		},
		Verified: b[96] != 0,
	}
	bytes := le.Uint64(b[32:])
	if bytes > MaxPiece || t.Chunk > 1<<31-1 || t.Rank > 1<<31-1 {
		return Ticket{}, fmt.Errorf("transfer: malformed ticket: chunk %d, rank %d, %d bytes", t.Chunk, t.Rank, bytes)
	}
	t.Bytes = int64(bytes)
	job := buf[ticketBytes : ticketBytes+int(b[ticketBytes-1])]
	if _, err := io.ReadFull(r, job); err != nil {
		return Ticket{}, noEOF(err)
	}
	t.Job = string(job)
	return t, nil
}

// appendPlaces appends where a payload lies in the sender's memory.
func appendPlaces(b []byte, places []place) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(len(places)))
	for _, p := range places {
		b = binary.LittleEndian.AppendUint64(b, p.addr)
		b = binary.LittleEndian.AppendUint64(b, p.bytes)
	}
	return b
}

// readPlaces reads where a payload of so many bytes lies; none where it
// follows on the stream.
func readPlaces(r io.Reader, bytes int64) ([]place, error) {
	var b [placeBytes]byte
	if _, err := io.ReadFull(r, b[:2]); err != nil {
		return nil, noEOF(err)
	}
	n := binary.LittleEndian.Uint16(b[:])
	if n > maxPlaces {
		return nil, fmt.Errorf("transfer: malformed ticket: %d places", n)
	}
	places := make([]place, n)
	left := uint64(bytes)
	for i := range places {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return nil, noEOF(err)
		}
		p := place{binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint64(b[8:])}
		if p.bytes == 0 || p.bytes > left {
			return nil, fmt.Errorf("transfer: malformed ticket: places of more than %d bytes, or empty ones", bytes)
		}
		left -= p.bytes
		places[i] = p
	}
	if n > 0 && left > 0 {
		return nil, fmt.Errorf("transfer: malformed ticket: places of less than %d bytes", bytes)
	}
	return places, nil
}

// showProbe sends p and reads whether the listener can read this process's
// memory.
func showProbe(c io.ReadWriter, p *probe) (bool, error) {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, probeBytes), p.pid)
	b = binary.LittleEndian.AppendUint64(b, p.addr)
	if _, err := c.Write(append(b, p.number[:]...)); err != nil {
		return false, err
	}
	var yes [1]byte
	_, err := io.ReadFull(c, yes[:])
	runtime.KeepAlive(p) // it has been read now
	return yes[0] == 1, noEOF(err)
}

// answerProbe reads a probe and says whether the memory behind it can be read.
func answerProbe(c net.Conn) (p probe, readable bool, err error) {
	var b [probeBytes]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return p, false, noEOF(err)
	}
	p = probe{binary.LittleEndian.Uint32(b[:]), binary.LittleEndian.Uint64(b[4:]), [16]byte(b[12:])}
	answer := []byte{0}
	if readable = p.readable(c); readable {
		answer[0] = 1
	}
	_, err = c.Write(answer)
	return p, readable, err
}

// appendResult appends the frame that says how a piece ended: placed where
// err is nil.
func appendResult(b []byte, err error) []byte {
	if err == nil {
		return append(b, statusPlaced, 0, 0, 0)
	}
	class := string(recovery.ClassOf(err))
	if len(class) > maxClass {
		class = string(recovery.Internal)
	}
	text := err.Error()
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "")
	}
	b = append(b, statusFailed, byte(len(class)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(text)))
	b = append(b, class...)
	return append(b, text...)
}

// readResult reads a result: what the receiver said about a piece, or in err
// why its answer could not be read.
func readResult(r io.Reader) (refusal, err error) {
	var buf [resultBytes + maxClass + maxMessage]byte
	b := buf[:resultBytes]
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	class, text := int(b[1]), int(binary.LittleEndian.Uint16(b[2:]))
	switch {
	case b[0] == statusPlaced && class == 0 && text == 0:
		return nil, nil
	case b[0] != statusFailed || class == 0 || class > maxClass || text > maxMessage:
		return nil, fmt.Errorf("transfer: malformed result: status %d, lengths %d and %d", b[0], class, text)
	}
	b = buf[resultBytes : resultBytes+class+text]
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, noEOF(err)
	}
	if !utf8.Valid(b) {
		return nil, fmt.Errorf("transfer: malformed result: text is not UTF-8")
	}
	return recovery.Errorf(recovery.Class(b[:class]), "%s", b[class:]), nil
}

// noEOF turns an end inside a frame into an error that says so.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
