// The Python module saxml.native: the scheduler core and what texts need. The only file with
// Python.
#include <pybind11/native_enum.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "native/base/str_cat.h"
#include "native/kv/page_pool.h"
#include "native/sched/scheduler.h"
#include "native/text/stop_matcher.h"
#include "native/text/token_ids.h"
#include "native/text/utf8_decoder.h"

namespace py = pybind11;

namespace sax {
namespace {

// No forcecast: an array of another type is a TypeError instead of silently cut numbers.
using Ids = py::array_t<int32_t, py::array::c_style>;

std::span<const int32_t> View(const Ids& ids, const char* name) {
  if (ids.ndim() != 1) {
    throw std::invalid_argument(
        StrCat(name, " has ", ids.ndim(), " dimensions; it must be a flat array of int32"));
  }
  return {ids.data(), static_cast<size_t>(ids.size())};
}

std::vector<int32_t> Copy(const Ids& ids, const char* name) {
  const auto view = View(ids, name);
  return {view.begin(), view.end()};
}

// An array on memory that `owner` keeps alive.
template <typename T>
py::array_t<T> Borrow(std::span<const T> data, py::handle owner) {
  return py::array_t<T>(static_cast<py::ssize_t>(data.size()), data.data(), owner);
}

// Gives a vector's memory to a numpy array.
Ids Own(std::vector<int32_t> ids) {
  auto owned = std::make_unique<std::vector<int32_t>>(std::move(ids));
  const std::span<const int32_t> data = *owned;
  const py::capsule owner(owned.get(),
                          [](void* p) { delete static_cast<std::vector<int32_t>*>(p); });
  owned.release();
  return Ids(static_cast<py::ssize_t>(data.size()), data.data(), owner);
}

void BindPagePool(py::module_& m) {
  py::class_<PagePool>(m, "PagePool", R"(Reference-counted, fixed-size pages of the KV cache.

It knows numbers only; one thread owns it. Raises ValueError for a page that is unknown
or, where a used one is needed, free.)")
      .def(py::init<int, int>(), py::arg("num_pages"), py::arg("page_size"))
      .def_property_readonly("num_pages", &PagePool::num_pages, "Pages in all.")
      .def_property_readonly("page_size", &PagePool::page_size, "Tokens a page holds.")
      .def_property_readonly("free_pages", &PagePool::free_pages, "Pages that nobody uses.")
      .def("allocate", &PagePool::Allocate,
           "Give a free page, now used once; raises OutOfPagesError.")
      .def("retain", &PagePool::Retain, py::arg("page"), "Count one user more.")
      .def("release", &PagePool::Release, py::arg("page"),
           "Count one user less; without users the page is free.")
      .def("ref_count", &PagePool::RefCount, py::arg("page"), "Count the users of a page.")
      .def("check_integrity", &PagePool::CheckIntegrity,
           "Raise RuntimeError with the numbers if the free list and the counts disagree.");
}

void BindStepPlan(py::module_& m) {
  const auto header = [](HeaderWord word) {
    return py::cpp_function([word](const StepPlan& plan) { return plan.header(word); });
  };
  const auto packed = [](py::object self) {
    return Borrow<int32_t>(self.cast<StepPlan&>().packed(), self);
  };
  const auto entry_request = [](py::object self) {
    return Borrow<int64_t>(self.cast<const StepPlan&>().entry_request, self);
  };
  const auto entry_seq = [](py::object self) {
    return Borrow<int32_t>(self.cast<const StepPlan&>().entry_seq, self);
  };
  const auto row_request = [](py::object self) {
    return Borrow<int64_t>(self.cast<const StepPlan&>().row_request, self);
  };
  const auto entry_target = [](py::object self) {
    StepPlan& plan = self.cast<StepPlan&>();
    return Borrow<int32_t>(plan[Section::kEntryTarget].first(plan.entry_seq.size()), self);
  };
  py::class_<StepPlan>(m, "StepPlan", R"(One step of the device, padded to its bucket.

The arrays share the plan's memory and keep it alive; Scheduler.packed_offsets says what
lies where in `packed`.)")
      .def_property_readonly(
          "bucket", [](const StepPlan& plan) { return plan.layout().bucket(); },
          "T, the tokens that the arrays have room for.")
      .def_property_readonly("num_tokens", header(HeaderWord::kNumTokens), "Tokens of the step.")
      .def_property_readonly("num_rows", header(HeaderWord::kNumRows),
                             "Sequences that take part; those that decode come first.")
      .def_property_readonly("num_decode_rows", header(HeaderWord::kNumDecodeRows),
                             "Rows of one token that was chosen in an earlier step.")
      .def_property_readonly("num_entries", header(HeaderWord::kNumEntries),
                             "Tokens whose logits are wanted.")
      .def_property_readonly("num_copies", header(HeaderWord::kNumCopies),
                             "Pages to copy before anything is written.")
      .def_property_readonly("packed", packed, "All sections in one array, for one transfer.")
      .def_property_readonly("entry_request", entry_request, "Request id of each entry.")
      .def_property_readonly("entry_seq", entry_seq,
                             "Index of each entry's sequence inside its request.")
      .def_property_readonly("entry_target", entry_target,
                             "Token whose log-probability is wanted, -1 where tokens are chosen.")
      .def_property_readonly("row_request", row_request, "Request id of each row.");
}

std::unique_ptr<Scheduler> MakeScheduler(int num_pages, int page_size, int max_rows,
                                         std::vector<int> buckets, int max_model_len,
                                         int queue_capacity, int row_params, bool prefix_cache,
                                         int max_preemptions,
                                         std::optional<int64_t> max_queued_tokens) {
  return std::make_unique<Scheduler>(SchedulerConfig{
      .num_pages = num_pages,
      .page_size = page_size,
      .max_rows = max_rows,
      .buckets = std::move(buckets),
      .max_model_len = max_model_len,
      .queue_capacity = queue_capacity,
      .row_params = row_params,
      .prefix_cache = prefix_cache,
      .max_preemptions = max_preemptions,
      .max_queued_tokens = max_queued_tokens.value_or(std::numeric_limits<int64_t>::max()),
  });
}

void Submit(Scheduler& self, int64_t id, const Ids& prompt, int width, bool fork_at_start,
            int max_new_tokens, const Ids& targets, const Ids& row_params, double deadline,
            int priority, uint64_t cache_salt, bool cache_read) {
  self.Submit({
      .id = id,
      .prompt = Copy(prompt, "prompt"),
      .width = width,
      .fork_at_start = fork_at_start,
      .max_new_tokens = max_new_tokens,
      .targets = Copy(targets, "targets"),
      .row_params = Copy(row_params, "row_params"),
      .deadline = deadline,
      .priority = priority,
      .cache_salt = cache_salt,
      .cache_read = cache_read,
  });
}

// The type says None in the stub.
std::optional<std::unique_ptr<StepPlan>> Plan(Scheduler& self, double now) {
  auto plan = self.Plan(now);
  if (plan == nullptr) return std::nullopt;
  return plan;
}

std::vector<std::pair<int64_t, DropReason>> TakeDropped(Scheduler& self) {
  std::vector<std::pair<int64_t, DropReason>> dropped;
  for (const auto& [id, reason] : self.TakeDropped()) dropped.emplace_back(id, reason);
  return dropped;
}

py::typing::Dict<py::str, py::typing::Tuple<int, int>> PackedOffsets(const Scheduler& self,
                                                                     int bucket) {
  const PackedLayout layout = self.Layout(bucket);
  py::dict offsets;
  for (int i = 0; i < kNumSections; ++i) {
    const Section section = static_cast<Section>(i);
    offsets[py::str(std::string(SectionName(section)))] =
        py::make_tuple(layout.offset(section), layout.length(section));
  }
  return offsets;
}

void BindScheduler(py::module_& m) {
  py::class_<Scheduler>(m, "Scheduler",
                        R"(Continuous batching over paged KV: what runs next, on which pages.

submit, cancel, wait, wake and the properties may be used from any thread, the rest from
the engine's thread only. A request is started only when its rows and its worst case of
pages can be set aside, so a running one is never stopped for want of pages, only for
one of higher priority that finds no room. Requests start by priority, then in the order
of their arrival. Full pages of keys and values are
kept for prompts that begin alike, until others need them; plans must be run in order.)")
      .def(py::init(&MakeScheduler), py::kw_only(), py::arg("num_pages"), py::arg("page_size"),
           py::arg("max_rows"), py::arg("buckets"), py::arg("max_model_len"),
           py::arg("queue_capacity"), py::arg("row_params"), py::arg("prefix_cache") = true,
           py::arg("max_preemptions") = 3, py::arg("max_queued_tokens") = py::none(),
           R"(Set the sizes; ValueError if they do not fit together.

buckets: ascending token counts that steps are padded to; the last is the most tokens of
a step and at least max_rows, the most sequences at once. max_model_len: most tokens of
a sequence. row_params: words that travel with each request. prefix_cache: whether pages
are kept for later prompts. max_preemptions: how often a request is suspended at most
for others of higher priority. max_queued_tokens: most prompt tokens that wait, None for any
number; a request that comes while none waits is always taken.)")
      .def("submit", &Submit, py::arg("request_id"), py::arg("prompt"), py::kw_only(),
           py::arg("width"), py::arg("fork_at_start"), py::arg("max_new_tokens"),
           py::arg("targets"), py::arg("row_params"), py::arg("deadline"), py::arg("priority") = 0,
           py::arg("cache_salt") = 0, py::arg("cache_read") = true,
           R"(Queue a request; any thread.

width: most sequences alive at once (beams or samples). fork_at_start: the finished
prompt emits `width` entries (samples 0..width-1) instead of one. targets: empty to
generate; to score, the last len(targets) prompt tokens each emit an entry with that
target (then width is 1, max_new_tokens 0). deadline: time.monotonic() seconds, inf for
none. priority: higher ones leave the queue first, lower ones wait as long as such ones
come; where one finds no room, running ones of lower priority are suspended, wait in
their old places, and are restored later: what they emitted is not emitted again.
cache_salt: unsigned 64 bits; pages are shared among requests with the same one.
cache_read: whether pages that others computed may be used; at least the last prompt
token, and every one with a target, is computed in any case. Raises ValueError for a
request that could never run and for an id in use, QueueFullError when queue_capacity
requests or max_queued_tokens wait.)")
      .def("cancel", &Scheduler::Cancel, py::arg("request_id"),
           "Have the next plan() drop a request; unknown ids are ignored. Any thread.")
      .def("wait", &Scheduler::Wait, py::arg("timeout"), py::call_guard<py::gil_scoped_release>(),
           R"(Wait at most `timeout` seconds for work, without the GIL; any thread.

True as soon as a request waits, runs or is to be dropped, or wake() was called.)")
      .def("wake", &Scheduler::Wake, "Have one wait() return True. Any thread.")
      .def_property_readonly("waiting", &Scheduler::waiting,
                             "Requests that wait: in the queue, or suspended.")
      .def_property_readonly("running", &Scheduler::running, "Requests that were started.")
      .def_property_readonly("queued_tokens", &Scheduler::queued_tokens,
                             "Prompt tokens of the requests in the queue.")
      .def_property_readonly("free_pages", &Scheduler::free_pages, "Pages that hold nothing.")
      .def_property_readonly("cached_pages", &Scheduler::cached_pages,
                             "Pages kept for later prompts that no sequence uses; taken when none "
                             "is free.")
      .def_property_readonly("used_pages", &Scheduler::used_pages,
                             "Pages that sequences use: all but the free and the cached.")
      .def_property_readonly("used_tokens", &Scheduler::used_tokens,
                             "Tokens in the used pages, those of shared pages once; the rest of "
                             "these pages is waste.")
      .def_property_readonly("prefix_queried_tokens", &Scheduler::prefix_queried_tokens,
                             "Tokens of all prompts that were looked up in the prefix cache.")
      .def_property_readonly("prefix_hit_tokens", &Scheduler::prefix_hit_tokens,
                             "How many of these were found and not computed again.")
      .def_property_readonly("preemptions", &Scheduler::preemptions,
                             "How often a request was suspended for one of higher priority.")
      .def_property_readonly("stuck", &Scheduler::stuck,
                             "Requests given up because nothing could be planned: a bug if not 0.")
      .def("packed_offsets", &PackedOffsets, py::arg("bucket"),
           R"(Give (offset, length) of each section of StepPlan.packed in a bucket, in order.

With T the bucket, R = min(T, max_rows), MP = ceil(max_model_len / page_size), W =
row_params: header[8] (num_tokens, num_rows, num_decode_rows, num_entries, num_copies,
0, 0, 0), tokens[T], token_source[T], positions[T], slots[T], q_start[R + 1], kv_len[R],
page_table[R * MP], copy_src[R], copy_dst[R], entry_token[R], entry_target[R],
entry_sample[R], entry_position[R], entry_params[R * W].)")
      .def("plan", &Plan, py::arg("now"),
           R"(Choose the next step, or None when there is nothing to do.

Drops what was cancelled or is late by `now` (time.monotonic() seconds), and a request
that is stuck, if there ever is one. Then takes
every sequence with a pending token and fills up with prompts. It takes microseconds and
keeps the GIL.)")
      .def("take_dropped", &TakeDropped,
           "Give the requests that plan() dropped since the last call, and why.")
      .def(
          "advance",
          [](Scheduler& self, int64_t id, const Ids& parents, const Ids& tokens,
             const std::optional<Ids>& samples) {
            self.Advance(id, View(parents, "parents"), View(tokens, "tokens"),
                         samples ? View(*samples, "samples") : std::span<const int32_t>());
          },
          py::arg("request_id"), py::arg("parents"), py::arg("tokens"),
          py::arg("samples") = py::none(),
          R"(Replace a request's sequences after its entries were emitted.

Child j continues sequence parents[j] with tokens[j]; 1 to width children. samples[j]
is what its entries carry as entry_sample from now on; None: j. Pages are
shared, those of sequences without a child are released. ValueError if nothing is
awaited, a parent does not exist, there are too many children, or max_new_tokens would
be passed.)")
      .def("set_mix", &Scheduler::SetMix, py::arg("largest"),
           R"(Bound the tokens of steps that decode: when the decode rows alone fit into buckets[i],
prompts may fill a step of largest[i] tokens. They get at least 8 tokens a step all the
same.
Before the first plan().

Raises ValueError unless there is one of the buckets, no smaller, for each.)")
      .def(
          "run_ahead",
          [](Scheduler& self, const std::vector<int64_t>& ids) { return self.RunAhead(ids); },
          py::arg("request_ids"),
          R"(Have requests go on before the tokens that the last plan's entries give are known.

The next plan's token_source says which entry of the last one gives each such token.
Requests that end with these tokens, and scored ones, stay as they are. False, and nothing
has changed, if one
of them cannot go on so, or is to make way for a request of a higher priority: then
advance them first.)")
      .def(
          "resolve",
          [](Scheduler& self, int64_t id, const Ids& samples, const Ids& tokens) {
            self.Resolve(id, View(samples, "samples"), View(tokens, "tokens"));
          },
          py::arg("request_id"), py::arg("samples"), py::arg("tokens"),
          R"(Tell the tokens that a request has run ahead with.

The sequences of samples[j], in ascending order of their places, go on with tokens[j];
the others end, and what later plans emitted for them is stale. ValueError if the request
has not run ahead, or no such sample goes on.)")
      .def("finish", &Scheduler::Finish, py::arg("request_id"),
           "Release all that a request holds; unknown ids are ignored.")
      .def("check_integrity", &Scheduler::CheckIntegrity,
           "Raise RuntimeError with the numbers if counts, tables and reservations disagree.");
}

void BindText(py::module_& m) {
  m.def(
      "parse_token_ids", [](std::string_view text) { return Own(ParseTokenIds(text)); },
      py::arg("text"),
      R"(Read token ids from "1,2,3"; blanks around the numbers are allowed.

ValueError names the piece that is not a number from 0 to 2147483647, and its place.)");
  m.def(
      "format_token_ids", [](const Ids& ids) { return FormatTokenIds(View(ids, "ids")); },
      py::arg("ids"), R"(Write token ids as "1,2,3"; no ids give "".)");
  py::class_<Utf8Decoder>(m, "Utf8Decoder", R"(UTF-8 that arrives in pieces, as characters.

What comes out does not depend on where the bytes were cut. Bytes that are not UTF-8
become U+FFFD, one for each maximal subpart, as bytes.decode(errors="replace") has it.)")
      .def(py::init<>())
      .def(
          "feed",
          [](Utf8Decoder& self, const py::bytes& data) {
            return self.Feed(static_cast<std::string_view>(data));
          },
          py::arg("data"), "Give the characters that data completes; the start of one is kept.")
      .def("finish", &Utf8Decoder::Finish,
           R"(Give U+FFFD if a character was left incomplete, else ""; then start afresh.)");
  py::class_<StopMatcher>(m, "StopMatcher", R"(Ends a text before the first of several stop strings.

Held back is exactly the longest end of the text that is a proper prefix of some stop
string. The stop string that is complete first counts; of those complete at the same
character, the longest.)")
      .def(py::init<std::vector<std::string>>(), py::arg("stops"),
           "Set the stop strings; ValueError if one is empty.")
      .def("feed", &StopMatcher::Feed, py::arg("text"),
           R"(Give the text that can go out now; "" once a stop string was found.)")
      .def("finish", &StopMatcher::Finish, "Give what was held back: the text is over.")
      .def_property_readonly("matched", &StopMatcher::matched,
                             "The stop string that was found, or None.");
}

}  // namespace

PYBIND11_MODULE(native, m) {
  m.doc() = "The native core of the model server: KV pages, scheduling, text.";
  py::register_exception<QueueFull>(m, "QueueFullError", PyExc_RuntimeError).doc() =
      "Scheduler.submit found as many requests, or tokens, waiting as may wait.";
  py::register_exception<OutOfPages>(m, "OutOfPagesError", PyExc_RuntimeError).doc() =
      "PagePool.allocate found no free page.";
  py::native_enum<DropReason>(m, "DropReason", "enum.Enum", "Why plan() gave a request up.")
      .value("CANCELLED", DropReason::kCancelled)
      .value("EXPIRED", DropReason::kExpired)
      .value("STUCK", DropReason::kStuck)
      .finalize();
  BindPagePool(m);
  BindStepPlan(m);
  BindScheduler(m);
  BindText(m);
}

}  // namespace sax
