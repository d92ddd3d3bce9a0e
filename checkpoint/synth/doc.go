// Package synth writes checkpoints that are shaped like real ones: a Llama of
// any size in a Hugging Face folder, with weights distributed like trained
// weights, so that loads and quantizers can be tried and measured without
// downloading a model. The same options give the same bytes on every machine.
// It trains nothing: what such a model says is noise. cmd and tests call it.
package synth
