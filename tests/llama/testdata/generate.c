// generate FOLDER FILE.gguf COUNT TOKEN... loads a model with the llama.cpp
// libraries of a folder and prints COUNT greedily chosen tokens that follow the
// given ones, one a line. With -t TEXT in place of tokens it prints how the
// model's tokenizer splits TEXT, with the control tokens that it adds.
//
// The libraries come without headers. What is declared here are the parts of
// llama.h that have kept their form; parameters are passed as the libraries'
// own defaults, in structures that are larger than theirs, which the calling
// convention of x86-64 and arm64 allows for structures in memory.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct opaque { char bytes[1024]; };

static void *library(const char *folder, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    void *h = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!h) {
        fprintf(stderr, "%s\n", dlerror());
        exit(2);
    }
    return h;
}

static void *function(void *library, const char *name) {
    void *f = dlsym(library, name);
    if (!f) {
        fprintf(stderr, "%s\n", dlerror());
        exit(2);
    }
    return f;
}

static int fail(const char *what) {
    fprintf(stderr, "%s failed\n", what);
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 5) {
        fprintf(stderr, "usage: generate FOLDER FILE.gguf COUNT TOKEN... | -t TEXT\n");
        return 2;
    }
    const char *folder = argv[1];
    library(folder, "libggml-base.so");
    void *ggml = library(folder, GGML);
    void *llama = library(folder, LLAMA);
    ((void (*)(const char *))function(ggml, "ggml_backend_load_all_from_path"))(folder);
    ((void (*)(void))function(llama, "llama_backend_init"))();

    struct opaque mp = ((struct opaque(*)(void))function(llama, "llama_model_default_params"))();
    void *model = ((void *(*)(const char *, struct opaque))function(llama, "llama_model_load_from_file"))(argv[2], mp);
    if (!model) return fail("loading the model");
    const void *vocab = ((const void *(*)(const void *))function(llama, "llama_model_get_vocab"))(model);
    int n_vocab = ((int32_t(*)(const void *))function(llama, "llama_vocab_n_tokens"))(vocab);

    if (strcmp(argv[4], "-t") == 0 && argc == 6) {
        int32_t tokens[4096];
        int n = ((int32_t(*)(const void *, const char *, int32_t, int32_t *, int32_t, _Bool, _Bool))function(llama, "llama_tokenize"))(
            vocab, argv[5], (int32_t)strlen(argv[5]), tokens, 4096, 1, 1);
        if (n < 0) return fail("tokenizing");
        for (int i = 0; i < n; i++) printf("%d\n", tokens[i]);
        return 0;
    }
    struct opaque cp = ((struct opaque(*)(void))function(llama, "llama_context_default_params"))();
    void *ctx = ((void *(*)(void *, struct opaque))function(llama, "llama_init_from_model"))(model, cp);
    if (!ctx) return fail("making a context");
    // Threads that wait for each other would spin on a machine that is busy.
    ((void (*)(void *, int32_t, int32_t))function(llama, "llama_set_n_threads"))(ctx, 1, 1);
    struct opaque (*batch)(int32_t *, int32_t) = (struct opaque(*)(int32_t *, int32_t))function(llama, "llama_batch_get_one");
    int32_t (*decode)(void *, struct opaque) = (int32_t(*)(void *, struct opaque))function(llama, "llama_decode");
    float *(*logits)(void *, int32_t) = (float *(*)(void *, int32_t))function(llama, "llama_get_logits_ith");

    int32_t tokens[4096];
    int n = 0;
    for (int i = 4; i < argc && n < 4096; i++) tokens[n++] = atoi(argv[i]);
    for (int count = atoi(argv[3]); count > 0; count--) {
        if (decode(ctx, batch(tokens, n)) != 0) return fail("decoding");
        const float *l = logits(ctx, -1);
        if (!l) return fail("reading the logits");
        int best = 0;
        for (int i = 1; i < n_vocab; i++)
            if (l[i] > l[best]) best = i;
        printf("%d\n", best);
        tokens[0] = best;
        n = 1;
    }
    return 0;
}
