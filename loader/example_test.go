package loader_test

import (
	"context"
	"fmt"
	"log"

	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
)

func Example() {
	l := loader.New(
		loader.WithDevice(device.Auto()),
		loader.WithMmap(true),
		loader.WithRecovery(recovery.Retry(3)),
		loader.WithQuantization(quant.Config{Scheme: "int8"}),
		loader.WithProgress(func(p progress.Update) { fmt.Printf("%s %.0f %%\n", p.Stage, 100*p.Overall) }),
	)
	m, err := l.Load(context.Background(), "model.safetensors")
	if err != nil {
		log.Fatal(err) // one line: what, which tensor and bytes, why, what to do
	}
	defer m.Close()
	q, err := m.Vars().Sub("model.layers.0.self_attn").Tensor("q_proj.weight")
	if err != nil {
		log.Fatal(err)
	}
	values, err := q.Float32()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(q.Shape(), q.Scheme(), len(values))
}
