package telemetry

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// TestObserveSources: operations are on /metrics, by kind and error, without
// the names of files.
func TestObserveSources(t *testing.T) {
	tel := start(t)
	defer shutdown(t, tel)
	tell, err := ObserveSources()
	if err != nil {
		t.Fatal(err)
	}
	tell(context.Background(), source.Operation{Op: "stream", File: "secret-name", Bytes: 5, Took: time.Millisecond})
	tell(context.Background(), source.Operation{Op: "open", File: "secret-name", Class: recovery.NotFound})
	w := httptest.NewRecorder()
	tel.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	text := w.Body.String()
	for _, want := range []string{"gantry_source_duration_seconds_count", `gantry_source_operation="stream"`, `error_type="not_found"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	if strings.Contains(text, "secret-name") {
		t.Error("a file's name is in the metrics")
	}
}
