package loader

import (
	"context"
	"math"

	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/placement"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/require"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

// Option changes how a Loader loads.
type Option func(*options)

// options are what a Loader was made with.
type options struct {
	name      string
	device    device.Selection
	mmap      bool
	mlock     bool
	strategy  recovery.Strategy
	quant     quant.Config
	dtype     dtype.Type
	layout    shard.Layout
	rules     []shard.ModuleRule
	padVocab  int64
	require   require.Requirements
	pins      []placement.Pin
	progress  func(progress.Update)
	staging   int64
	limitRate int64
	validate  bool
	keep      bool // the originals, whatever quant says
	transform []model.Transform

	// What tests set.
	chunkBytes int64
	open       func(context.Context, string, recovery.Strategy) (source.Source, error)
}

// WithName names the model. Without it the checkpoint's folder or file does.
func WithName(name string) Option { return func(o *options) { o.name = name } }

// WithDevice chooses the device that ranks are placed on. The default is
// device.Auto().
func WithDevice(s device.Selection) Option { return func(o *options) { o.device = s } }

// WithMmap reads local files through mappings instead of pread, where the file
// system can be trusted to notice a change.
func WithMmap(on bool) Option { return func(o *options) { o.mmap = on } }

// WithMlock keeps what is placed in host memory from being swapped out. Load
// fails with class out_of_capacity where the process may not lock so much.
func WithMlock(on bool) Option { return func(o *options) { o.mlock = on } }

// WithRecovery says what happens when a chunk cannot be loaded. The default is
// recovery.Recover().
func WithRecovery(s recovery.Strategy) Option { return func(o *options) { o.strategy = s } }

// WithQuantization quantizes tensors while they are loaded.
func WithQuantization(c quant.Config) Option { return func(o *options) { o.quant = c } }

// WithDType casts all float tensors to F32, F16 or BF16 while they are loaded,
// but those that WithQuantization overrides. It excludes a scheme of that.
func WithDType(t dtype.Type) Option { return func(o *options) { o.dtype = t } }

// WithRequirements has Load and Plan refuse, with class out_of_capacity, where
// this machine does not have what is required. Nothing is read then. Load
// refuses so where the model's own requirements are not met, too.
func WithRequirements(r require.Requirements) Option { return func(o *options) { o.require = r } }

// WithLayout cuts the model over ranks, all of them in this process.
func WithLayout(l shard.Layout) Option { return func(o *options) { o.layout = l } }

// WithPlacement says which device ranks must lie on; there is one worker, which
// a pin need not name. The others are spread by policy (package placement).
func WithPlacement(pins ...placement.Pin) Option { return func(o *options) { o.pins = pins } }

// WithRules says how modules are divided which no built-in rule knows.
func WithRules(rules ...shard.ModuleRule) Option { return func(o *options) { o.rules = rules } }

// WithPadVocab fills embedding and head up with zeros to a multiple of so many
// rows before they are divided. 0 does not.
func WithPadVocab(rows int64) Option { return func(o *options) { o.padVocab = rows } }

// WithProgress has f called at each change of stage, at most four times a
// second besides, and once at the end. Calls come one at a time, from a
// goroutine of the load's own; Load returns after the last. A slow f delays
// no byte.
func WithProgress(f func(progress.Update)) Option { return func(o *options) { o.progress = f } }

// WithStaging sets how many bytes of memory the load may use besides what it
// places. 0 is DefaultStaging.
func WithStaging(bytes int64) Option { return func(o *options) { o.staging = bytes } }

// WithLimitRate limits reading to so many bytes per second. 0 is no limit.
func WithLimitRate(bytesPerSecond int64) Option {
	return func(o *options) { o.limitRate = bytesPerSecond }
}

// WithValidate has every value looked at, as it was stored and as it is placed:
// the report's NonFinite counts NaN and Inf.
func WithValidate(on bool) Option { return func(o *options) { o.validate = on } }

// WithKeepOriginal keeps the stored elements of each tensor beside what it
// becomes: model.Tensor's Original gives them. Both are resident.
func WithKeepOriginal(on bool) Option { return func(o *options) { o.keep = on } }

// WithTransforms changes how the model's Vars shows tensors, by patterns of
// their names. It costs nothing until such a tensor is asked for.
func WithTransforms(t ...model.Transform) Option { return func(o *options) { o.transform = t } }

// validated checks options against each other.
func (o *options) validated() error {
	if o.staging < 0 || o.limitRate < 0 {
		return recovery.Errorf(recovery.Usage, "load: staging %d and rate limit %d must not be negative", o.staging, o.limitRate)
	}
	if o.dtype != dtype.Invalid && o.quant.Scheme != "" {
		return recovery.Errorf(recovery.Usage, "load: casting to %s and quantizing to %s exclude each other", o.dtype, o.quant.Scheme)
	}
	if _, err := o.scheme(); err != nil {
		return err
	}
	if err := o.require.Validate(); err != nil {
		return err
	}
	if err := o.quant.Validate(); err != nil {
		return err
	}
	return placement.Check(o.pins, o.layout.Ranks())
}

// scheme returns the scheme that the options come to.
func (o *options) scheme() (string, error) {
	switch o.dtype {
	case dtype.Invalid:
		return o.quant.Resolve()
	case dtype.F32:
		return "f32", nil
	case dtype.F16:
		return "f16", nil
	case dtype.BF16:
		return "bf16", nil
	}
	return "", recovery.Errorf(recovery.Usage, "load: no cast to %s: want F32, F16 or BF16", o.dtype)
}

// source opens the checkpoint as the options say.
func (o *options) source(ctx context.Context, uri string, s recovery.Strategy) (source.Source, error) {
	if o.open != nil {
		return o.open(ctx, uri, s)
	}
	mode := source.ModeAuto
	if o.mmap {
		mode = source.ModeMmap
	}
	return source.Open(ctx, uri, source.Options{Mode: mode, Retry: source.RetryFor(s)})
}

// window is how many stored bytes may be under way at once. Staging bounds
// memory; this only keeps the list of chunks in work short.
func window(parallel int, uri string, chunkBytes int64) int64 {
	if source.Remote(uri) {
		parallel = max(parallel, linksAtOnce/2)
	}
	return min(int64(2*parallel)*chunkBytes, math.MaxInt64/2)
}
