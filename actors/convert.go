package actors

import (
	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/messages/control"
)

// maxValidationText bounds the texts of a validation on the wire.
const maxValidationText = 1 << 10

// fromValidation returns v as a message.
func fromValidation(v loader.Validation) *control.Validation {
	reason := v.Reason
	if len(reason) > maxValidationText {
		reason = reason[:maxValidationText] + "…"
	}
	return &control.Validation{
		Ran: v.Ran, Reason: reason, Runtime: v.Runtime, Tensor: v.Tensor, Method: v.Method,
		Rows: v.Rows, MaxError: v.MaxError, Counted: v.Counted, Stored: control.FromTally(v.Stored), Placed: control.FromTally(v.Placed),
	}
}

// toValidation is its inverse.
func toValidation(v *control.Validation) loader.Validation {
	return loader.Validation{
		Ran: v.GetRan(), Reason: v.GetReason(), Runtime: v.GetRuntime(), Tensor: v.GetTensor(), Method: v.GetMethod(),
		Rows: v.GetRows(), MaxError: v.GetMaxError(), Counted: v.GetCounted(), Stored: v.GetStored().Tally(), Placed: v.GetPlaced().Tally(),
	}
}
