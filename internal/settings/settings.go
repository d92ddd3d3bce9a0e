// Package settings reads the files in which users keep settings, YAML or JSON.
// It knows no key: quant and placement give the values their meaning.
package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/knadh/koanf/parsers/yaml"
)

// MaxBytes bounds a file.
const MaxBytes = 1 << 20

// Read reads the file at a path.
func Read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxBytes+1))
	return data, errors.Join(err, f.Close())
}

// Decode reads JSON where it is that, which may be indented by tabs, else YAML.
// Numbers are json.Number or Go's own.
func Decode(data []byte) (map[string]any, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("it is larger than %d bytes", MaxBytes)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var fields map[string]any
	if err := d.Decode(&fields); err == nil {
		if _, err := d.Token(); err == io.EOF {
			return fields, nil
		}
	}
	return yaml.Parser().Unmarshal(data)
}
