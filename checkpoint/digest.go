package checkpoint

import (
	"encoding/hex"
	"encoding/json"

	"github.com/zeebo/xxh3"

	"github.com/gantry-ml/gantry/require"
	"github.com/gantry-ml/gantry/source"
)

// Digest identifies the checkpoint: 32 hexadecimal digits, the xxh3-128 of
// what decides which bytes a load reads, what they become and where: format,
// files with size and ID, tensors and which belong together, architecture, plan
// for tensor parallelism, requirements. Workers that reach the same files
// compute the same digest; a file that is written to again, or a copy of it,
// has another. It does not cover tensor bytes, config.json's other fields or
// side files.
func (ix *Index) Digest() string {
	h := xxh3.New()
	// Encoding these types cannot fail, nor can writing to a hash.
	_ = json.NewEncoder(h).Encode(struct {
		Format       string               `json:"format"`
		Files        []source.File        `json:"files"`
		Tensors      []Tensor             `json:"tensors"`
		Packed       []Packed             `json:"packed,omitempty"`
		Architecture Architecture         `json:"architecture"`
		TPPlan       map[string]string    `json:"tp_plan,omitempty"`
		Require      require.Requirements `json:"require,omitzero"` // as stored, so that no other index has this digest
	}{ix.Format, ix.Files, ix.Tensors, ix.Packed, ix.Architecture, ix.TPPlan, ix.Require})
	sum := h.Sum128().Bytes()
	return hex.EncodeToString(sum[:])
}
