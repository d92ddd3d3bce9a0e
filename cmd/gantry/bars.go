package main

import (
	"io"
	"os"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// bytesBar is a bar over bytes on stderr; on anything but a terminal it shows
// nothing. One goroutine at a time sets it.
type bytesBar struct {
	pool *mpb.Progress
	bar  *mpb.Bar
}

// bytesBar starts a bar with a label before it.
func (a *app) bytesBar(label string) *bytesBar {
	pool := mpb.New(mpb.WithOutput(a.terminal()), mpb.WithWidth(40))
	return &bytesBar{pool: pool, bar: newBar(pool, label, 0)}
}

// set says that done of total bytes are done.
func (b *bytesBar) set(done, total int64) {
	b.bar.SetTotal(total, false)
	b.bar.SetCurrent(done)
}

// done ends the bar and waits until it has been drawn for the last time.
func (b *bytesBar) done(err error) {
	if err != nil {
		b.bar.Abort(false)
	} else {
		b.bar.SetTotal(-1, true)
	}
	b.pool.Wait()
}

// newBar adds a bar over bytes to a pool: label, bar, percent, rate.
func newBar(pool *mpb.Progress, label string, total int64) *mpb.Bar {
	return pool.New(total,
		mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]"),
		mpb.PrependDecorators(decor.Name(label+" ")),
		mpb.AppendDecorators(
			decor.Percentage(decor.WCSyncSpace),
			decor.CountersKibiByte("% .1f / % .1f", decor.WCSyncSpace),
			decor.AverageSpeed(decor.SizeB1024(0), "% .1f", decor.WCSyncSpace),
		))
}

// terminal returns stderr where it is a terminal, and nil, which discards,
// where it is not.
func (a *app) terminal() io.Writer {
	if f, ok := a.stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}
