package transfer

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

// stream is the sending side of one connection. Results come back in the order
// of the tickets.
type stream struct {
	conn     net.Conn
	readable bool // the receiver can read this process's memory

	// Guarded by the peer's lock.
	writing bool // somebody may write to it, and only he
	pending int  // pieces that have it: being written or without a result

	header []byte      // reused; the writer's
	parts  net.Buffers // reused; the writer's

	mu      sync.Mutex
	waiting []chan outcome // one for each piece without a result, oldest first
	err     error          // why the stream is broken
}

// outcome is how a piece ended: placed where both are nil.
type outcome struct {
	refusal error // it cannot be placed, or not by this Send
	broken  error // why the stream broke before it was placed
}

// write puts a ticket and its payload, or where the payload lies, on the wire
// in one writev where the system allows, and returns where the result will
// come. What lies in memory stays there until then.
func (s *stream) write(ctx context.Context, t Ticket, parts [][]byte) (<-chan outcome, outcome) {
	var n int64
	for _, p := range parts {
		n += int64(len(p))
	}
	if n != t.Bytes {
		return nil, outcome{refusal: recovery.Errorf(recovery.Internal, "transfer: payload of %d bytes behind a ticket for %d", n, t.Bytes)}
	}
	h, err := appendTicket(s.header[:0], t)
	if err != nil {
		return nil, outcome{refusal: err}
	}
	if s.readable {
		places := placesOf(parts)
		if len(places) > maxPlaces {
			places = nil
		}
		if h = appendPlaces(h, places); len(places) > 0 {
			parts = nil
		}
	}
	s.header = h
	wait := make(chan outcome, 1)
	if err := s.expect(wait); err != nil {
		return nil, outcome{broken: err}
	}
	// A frame that was begun cannot be taken back: where ctx ends before it is
	// written, the stream goes with it.
	s.conn.SetWriteDeadline(time.Now().Add(patience(t.Bytes)))
	stop := context.AfterFunc(ctx, func() { s.conn.SetWriteDeadline(time.Unix(1, 0)) })
	s.parts = append(append(s.parts[:0], h), parts...)
	out := s.parts
	_, err = out.WriteTo(s.conn)
	clear(s.parts) // the caller's memory is the caller's again
	stop()
	if err != nil {
		s.fail(err)
		return nil, outcome{broken: err}
	}
	return wait, outcome{}
}

// await waits for a result, so long at most.
func (s *stream) await(ctx context.Context, wait <-chan outcome, limit time.Duration) outcome {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case out := <-wait:
		return out
	case <-ctx.Done():
		return outcome{refusal: ctx.Err()}
	case <-timer.C:
		late := recovery.Errorf(recovery.Timeout, "no answer within %s", limit)
		s.fail(late)
		return outcome{refusal: late} // who does not answer is not asked again
	}
}

// expect queues the receiver of the next result.
func (s *stream) expect(wait chan outcome) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	s.waiting = append(s.waiting, wait)
	return nil
}

// read hands results to their waiters until the stream ends.
func (s *stream) read() {
	for {
		refusal, err := readResult(s.conn)
		if err != nil {
			s.fail(err)
			return
		}
		s.mu.Lock()
		var wait chan outcome
		if len(s.waiting) > 0 {
			wait = s.waiting[0]
			s.waiting = s.waiting[1:]
		}
		s.mu.Unlock()
		if wait == nil {
			s.fail(errors.New("transfer: a result that nobody waits for"))
			return
		}
		wait <- outcome{refusal: refusal}
	}
}

// fail closes the stream for the first reason given; all that wait get it.
func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = err
	s.conn.Close()
	for _, w := range s.waiting {
		w <- outcome{broken: err}
	}
	s.waiting = nil
}

func (s *stream) broken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil
}
