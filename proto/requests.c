/* requests.c - see requests.h. Ranges live here and in openapi.json; test_proto_requests.c holds the two together. */
#include "proto/requests.h"

#include "proto/fields.h"
#include "proto/program.h"

#include <cjson/cJSON.h>
#include <string.h>

static const int64_t CHUNK_MAX = 9007199254740991; /* a double holds it */
static const char *const transitions[] = {"switch", "blend", "recache", "flush", "cut"};

const char *sc_wire_transition_name(sc_wire_transition t) {
    return (unsigned)t < SC_WIRE_NOT_GIVEN ? transitions[t] : NULL;
}

bool sc_wire_transition_parse(const char *word, sc_wire_transition *out) {
    for (int i = 0; i < SC_WIRE_NOT_GIVEN; i++)
        if (!strcmp(word, transitions[i])) {
            *out = (sc_wire_transition)i;
            return true;
        }
    return false;
}

bool sc_request_create(const char *body, size_t n, sc_create_request *out, struct sc_program **schedule, sc_problem *problem) {
    cJSON *o = sc_fields_parse(body, n, SC_BODY_BYTES_MAX, "body", problem), *program;
    bool flag;

    memset(out, 0, sizeof *out);
    out->transition = SC_WIRE_NOT_GIVEN;
    out->run_without_viewers = -1;
    *schedule = NULL;
    if (!o) return false;
    sc_field_prompt(o, "prompt", true, out->prompt, &out->prompt_bytes, problem);
    out->has_seed = sc_field_seed(o, "seed", &out->seed, problem);
    sc_field_text(o, "model", out->model, sizeof out->model, problem);
    program = cJSON_DetachItemFromObjectCaseSensitive(o, "schedule");
    if (cJSON_IsObject(program)) sc_program_read(program, "/schedule", schedule, problem);
    else if (program) sc_problem_add(problem, "/schedule", "must be an object with prompts or text");
    cJSON_Delete(program);
    sc_field_transition(o, &out->transition, problem);
    sc_field_small(o, "fps", 1, 60, &out->fps, problem);
    sc_field_small(o, "jpeg_quality", 1, 100, &out->jpeg_quality, problem);
    sc_field_small(o, "lookahead_chunks", 1, 4, &out->lookahead_chunks, problem);
    if (sc_field_bool(o, "run_without_viewers", &flag, problem)) out->run_without_viewers = flag;
    sc_field_small(o, "idle_timeout_s", 1, 86400, &out->idle_timeout_s, problem);
    sc_fields_end(o, "prompt, seed, model, schedule, transition, fps, jpeg_quality, lookahead_chunks, run_without_viewers, idle_timeout_s",
                  problem);
    cJSON_Delete(o);
    if (problem->status) {
        sc_program_release(*schedule);
        *schedule = NULL;
    }
    return problem->status == 0;
}

bool sc_request_patch(const char *body, size_t n, sc_patch_request *out, sc_problem *problem) {
    static const char *const states[] = {"running", "paused"};
    cJSON *o = sc_fields_parse(body, n, SC_BODY_BYTES_MAX, "body", problem);
    int state;
    bool empty, prompt_given;

    memset(out, 0, sizeof *out);
    out->transition = SC_WIRE_NOT_GIVEN;
    if (!o) return false;
    empty = o->child == NULL;
    prompt_given = cJSON_GetObjectItemCaseSensitive(o, "prompt") != NULL;
    out->has_prompt = sc_field_prompt(o, "prompt", false, out->prompt, &out->prompt_bytes, problem);
    if (sc_field_transition(o, &out->transition, problem) && !prompt_given)
        sc_problem_add(problem, "/transition", "says how to go over to a new prompt, and there is no \"prompt\" beside it");
    if (sc_field_word(o, "state", states, 2, &state, problem)) out->state = state ? SC_PATCH_PAUSED : SC_PATCH_RUNNING;
    sc_field_small(o, "fps", 1, 60, &out->fps, problem);
    sc_field_small(o, "jpeg_quality", 1, 100, &out->jpeg_quality, problem);
    sc_field_small(o, "idle_timeout_s", 1, 86400, &out->idle_timeout_s, problem);
    sc_fields_end(o, "prompt, transition, state, fps, jpeg_quality, idle_timeout_s", problem);
    if (empty)
        sc_problem_add(problem, "", "nothing to change: at least one of prompt, transition, state, fps, jpeg_quality, idle_timeout_s is needed");
    cJSON_Delete(o);
    return problem->status == 0;
}

bool sc_request_fork(const char *body, size_t n, sc_fork_request *out, sc_problem *problem) {
    cJSON *o = sc_fields_parse(body, n, SC_BODY_BYTES_MAX, "body", problem);
    int64_t chunk = 0;

    memset(out, 0, sizeof *out);
    if (!o) return false;
    out->has_at_chunk = sc_field_int(o, "at_chunk", 0, CHUNK_MAX, &chunk, problem);
    out->at_chunk = (uint64_t)chunk;
    out->has_prompt = sc_field_prompt(o, "prompt", false, out->prompt, &out->prompt_bytes, problem);
    out->has_seed = sc_field_seed(o, "seed", &out->seed, problem);
    sc_fields_end(o, "at_chunk, prompt, seed", problem);
    cJSON_Delete(o);
    return problem->status == 0;
}

bool sc_request_ticket(const char *body, size_t n, bool *control, sc_problem *problem) {
    static const char *const roles[] = {"control", "watch"};
    cJSON *o = sc_fields_parse(body, n, SC_BODY_BYTES_MAX, "body", problem);
    int role = 0;

    if (!o) return false;
    if (!cJSON_GetObjectItemCaseSensitive(o, "role")) sc_problem_add(problem, "/role", "is missing: \"control\" or \"watch\" is needed");
    sc_field_word(o, "role", roles, 2, &role, problem);
    sc_fields_end(o, "role", problem);
    cJSON_Delete(o);
    *control = role == 0;
    return problem->status == 0;
}
