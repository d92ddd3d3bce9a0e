package actors

import (
	"context"
	"sync"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

// memory is a store, plans and a publisher in memory.
type memory struct {
	mu     sync.Mutex
	rev    uint64
	jobs   map[string]StoredJob
	models map[string]StoredModel
	index  map[string]*checkpoint.Index
	events []progress.Event
	news   []progress.Update
	before func(what string) error // called before a model, or a job's last record, is written; nil: nothing is
}

func newMemory() *memory {
	return &memory{jobs: map[string]StoredJob{}, models: map[string]StoredModel{}, index: map[string]*checkpoint.Index{}}
}

func (m *memory) PutJob(_ context.Context, j messages.Job, revision uint64) (uint64, error) {
	if j.State.Final() && m.before != nil {
		if err := m.before("job"); err != nil {
			return 0, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.jobs[j.Job].Revision != revision {
		return 0, recovery.Errorf(recovery.Stale, "revision %d, have %d", revision, m.jobs[j.Job].Revision)
	}
	m.rev++
	m.jobs[j.Job] = StoredJob{j, m.rev}
	return m.rev, nil
}

func (m *memory) Jobs(context.Context) (all []StoredJob, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, j := range m.jobs {
		all = append(all, j)
	}
	return all, nil
}

func (m *memory) PutModel(_ context.Context, v messages.Model, revision uint64) (uint64, error) {
	if m.before != nil {
		if err := m.before("model"); err != nil {
			return 0, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.models[v.Name].Revision != revision {
		return 0, recovery.Errorf(recovery.Stale, "model %s", v.Name)
	}
	m.rev++
	m.models[v.Name] = StoredModel{v, m.rev}
	return m.rev, nil
}

func (m *memory) DeleteModel(_ context.Context, name string, revision uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.models[name].Revision != revision {
		return recovery.Errorf(recovery.Stale, "model %s", name)
	}
	delete(m.models, name)
	return nil
}

func (m *memory) Models(context.Context) (all []StoredModel, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range m.models {
		all = append(all, v)
	}
	return all, nil
}

func (m *memory) PutIndex(_ context.Context, ix *checkpoint.Index) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.index[ix.Digest()] = ix
	return ix.Digest(), nil
}

func (m *memory) Index(_ context.Context, digest string) (*checkpoint.Index, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ix := m.index[digest]; ix != nil {
		return ix, nil
	}
	return nil, recovery.Errorf(recovery.NotFound, "no index %s", digest)
}

func (m *memory) Event(_ context.Context, e progress.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events = append(m.events, e)
}

func (m *memory) Update(_ context.Context, u progress.Update) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.news = append(m.news, u)
}

// count says how many events of a kind there were.
func (m *memory) count(k progress.Kind) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.events {
		if e.Kind == k {
			n++
		}
	}
	return n
}
