package integration

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
)

// moment is when in a load a fault strikes.
type moment string

const (
	at5   moment = "5"
	at50  moment = "50"
	at95  moment = "95"
	seals moment = "seal" // all pieces are placed, and ranks are being checked
	swaps moment = "swap" // all ranks are sealed, and the record that makes the new model the current one is being written
	ends  moment = "end"  // that is written, and the last record of the load is being written
)

// Rules that make moments last: a job that is to be struck in one has its name
// at the end of its id.
const (
	workerMoments      = "seal *-seal delay 1500ms"
	coordinatorMoments = "record *-swap delay 1500ms; end *-end delay 1500ms"
)

// share is how much is read at a moment of reading, else 0.
func (m moment) share() float64 {
	return map[moment]float64{at5: .05, at50: .5, at95: .95}[m]
}

// meet waits for a moment of a job, and returns how it stands then.
func (c *Cluster) meet(t *testing.T, id string, m moment) (s messages.Job) {
	t.Helper()
	if m.share() > 0 {
		return c.until(id, m.share())
	}
	switch m {
	case seals:
		c.Until("all of "+id+" is placed", func() bool {
			s = c.Status(id)
			return s.State == messages.StateSealing || s.State.Final()
		})
	case swaps:
		c.whenSealed(t, id, 2)
	case ends:
		c.whenCurrent(t, id)
	}
	if s = c.Status(id); s.State.Final() || s.BytesRead == 0 {
		t.Fatalf("%s is %s with %d bytes read, and was to be struck at %s", id, s.State, s.BytesRead, m)
	}
	return s
}

// whenSealed waits until so many ranks of a job are sealed, by its events: its
// record does not show the last one before all is over.
func (c *Cluster) whenSealed(t *testing.T, id string, ranks int) {
	t.Helper()
	notices, err := c.Client.WatchJob(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	limit := time.After(jobLimit)
	for sealed := 0; sealed < ranks; {
		select {
		case n, ok := <-notices:
			if !ok || n.Err != nil {
				t.Fatalf("%s ended, or the watch of it broke, with %d ranks sealed: %v", id, sealed, n.Err)
			}
			if n.Event != nil && n.Event.Kind == progress.RankSealed {
				sealed++
			}
		case <-limit:
			t.Fatalf("timed out with %d ranks of %s sealed", sealed, id)
		}
	}
	go func() { // the watch ends with the job, or with the test
		for range notices {
		}
	}()
}

// whenCurrent waits until the record of a job's model is written.
func (c *Cluster) whenCurrent(t *testing.T, id string) {
	t.Helper()
	js, err := jetstream.New(c.Conn)
	if err != nil {
		t.Fatal(err)
	}
	models, err := js.KeyValue(t.Context(), "gantry-models")
	if err != nil {
		t.Fatal(err)
	}
	c.Until("the model of "+id+" is current", func() bool {
		at, err := models.Get(t.Context(), "m-"+id)
		if err != nil {
			t.Fatal(err) // there is one of that name: an old one, or this
		}
		var m messages.Model
		if err := json.Unmarshal(at.Value(), &m); err != nil {
			t.Fatal(err)
		}
		return m.Job == id
	})
}
