#include <algorithm>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "internal.h"
#include "runtime.h"

namespace prge {

using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::runtime::EValue;
using RuntimeError = executorch::runtime::Error;

// A .pte, mapped.
struct Program::Runtime : Module {
  const std::string path;

  explicit Runtime(const std::string& path) : Module(path, LoadMode::Mmap), path(path) {
    if (!fs::exists(path)) throw Error(path + " does not exist; make it with `prge export`");
    if (load(executorch::runtime::Program::Verification::InternalConsistency) != RuntimeError::Ok)
      throw Error(path + " is no ExecuTorch program, or it is truncated or damaged; copy or export it again");
  }

  void load_forward() {
    if (load_method("forward") != RuntimeError::Ok)
      throw Error(path + " is damaged, or made for another version of the ExecuTorch runtime");
  }

  std::vector<EValue> forward(const std::vector<TensorPtr>& inputs, double& seconds) {
    load_forward();
    auto began = Clock::now();
    auto outputs = execute("forward", std::vector<EValue>(inputs.begin(), inputs.end()));
    seconds += since(began);
    if (!outputs.ok()) throw Error(path + ": the ExecuTorch runtime could not run it");
    return *outputs;
  }
};

namespace {

// Of the manifest.
constexpr int kVersion = 5, kOldest = 4;

template <class Number>
TensorPtr tensor(const std::vector<int64_t>& sizes, std::vector<Number> numbers) {
  return executorch::extension::make_tensor_ptr({sizes.begin(), sizes.end()}, std::move(numbers));
}

// The digest that a file was sealed with, in hex; "" without a seal. Its bytes are not read.
std::string seal_of(const std::string& path) {
  constexpr std::string_view kMagic = "prge-seal";
  std::string tail(kMagic.size() + 32, '\0'), digest;
  File file(path, O_RDONLY);
  if (file.size() < tail.size()) return "";
  file.read_at(file.size() - tail.size(), tail.data(), tail.size());
  if (tail.compare(0, kMagic.size(), kMagic) != 0) return "";
  for (unsigned char byte : tail.substr(kMagic.size())) digest += hex(byte).substr(6);
  return digest;
}

std::vector<float> floats(const EValue& value) {
  auto tensor = value.toTensor();
  if (tensor.scalar_type() != executorch::aten::ScalarType::Float) throw Error("an output is not of floats");
  return {tensor.const_data_ptr<float>(), tensor.const_data_ptr<float>() + tensor.numel()};
}

}  // namespace

Manifest read_manifest(const std::string& text, const std::string& where) try {
  Json j = parse_json(text), adapter = j.at("adapter"), mask = j.at("mask_token");
  if (j.at("format") != "prge") throw Odd("another format");
  if (Json version = j.at("version"); version != kVersion && version != kOldest)
    throw Error(where + " has manifest version " + dump(version) + "; this prge reads " + std::to_string(kVersion) +
                ": " + (version > kVersion ? "upgrade prge, or " : "") + "export the program again");
  if (j.at("kind") != "step") throw Odd("it does not train: take the program.pte beside it");
  Manifest m{};
  m.json = text;
  m.adapter_sha256 = adapter.at("sha256");
  const std::pair<const char*, std::string Manifest::*> texts[] = {
      {"model", &Manifest::model}, {"model_sha256", &Manifest::model_sha256},
      {"frozen_sha256", &Manifest::frozen_sha256}, {"gradient", &Manifest::gradient}, {"optimizer", &Manifest::optimizer},
      {"objective", &Manifest::objective}, {"answer_at", &Manifest::answer_at}};
  for (auto [name, field] : texts) m.*field = j.at(name);
  const std::pair<const char*, int64_t Manifest::*> sizes[] = {
      {"queries", &Manifest::queries},         {"batch", &Manifest::batch},
      {"frozen_rows", &Manifest::frozen_rows}, {"min_tokens", &Manifest::min_tokens},
      {"max_tokens", &Manifest::max_tokens},   {"max_targets", &Manifest::max_targets}};
  for (auto [name, field] : sizes) m.*field = whole(j.at(name), 1 << 20);
  m.state_size = whole(j.at("state_size"));
  m.pad_token = whole(j.at("pad_token"));
  m.mask_token = mask.is_null() ? -1 : whole(mask);
  m.vocabulary = whole(j.at("architecture").at("vocabulary"));
  m.hidden = whole(j.at("architecture").at("hidden"), 1 << 20);
  m.labels = static_cast<int64_t>(j.at("labels").size());
  Json cores = adapter.at("modules");
  if (Json head = adapter.value("head", Json()); !head.is_null()) cores.push_back(head);
  for (auto& trained : cores)
    m.parameters += whole(trained.at("core").at(0), 1 << 20) * whole(trained.at("core").at(1), 1 << 20);
  if (m.queries < 1 || m.batch < 1 || m.frozen_rows < 1 || m.max_tokens < 1 || m.hidden < 1 || m.parameters < 1 ||
      m.parameters > m.state_size || m.state_size % m.parameters)
    throw Odd("its sizes make no step");
  m.beta_mean = j.at("betas").at(0);
  m.beta_square = j.at("betas").at(1);
  m.eps = j.at("eps");
  m.lr = j.at("lr");
  m.outer = j.at("outer");
  m.inner = j.at("inner");
  m.choices = j.at("choices") != "";
  for (auto* name : {"quantization", "noise"}) std::string(j.at(name));  // which a run's description repeats
  for (auto* name : {"rank", "alpha", "subspace"}) adapter.at(name);
  return m;
} catch (const Error&) {
  throw;
} catch (const std::exception& e) {
  throw Error(where + " is not a program made by prge, or by another version of it (" + e.what() + ")");
}

Program::Program(const std::string& path, unsigned threads)
    : path_(fs::exists(path + "/program.pte") ? path + "/program.pte" : path) {
  if (threads && !executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(threads))
    throw Error("the runtime does not take " + std::to_string(threads) + " threads");
  runtime_ = std::make_unique<Runtime>(path_);
  auto said = runtime_->execute("manifest");
  if (!said.ok() || said->empty() || !said->at(0).isString())
    throw Error(path_ + " is an ExecuTorch program, but not one made by prge (it has no manifest)");
  auto text = said->at(0).toString();
  manifest_ = read_manifest({text.data(), text.size()}, path_);
}

Program::~Program() = default;

Program::Runtime& Program::frozen() {
  if (frozen_) return *frozen_;
  std::string path = fs::path(path_).replace_filename("frozen.pte").string();
  auto loaded = std::make_unique<Runtime>(path);
  if (seal_of(path) != manifest_.frozen_sha256)
    throw Error(path + " is the frozen part of another program than " + path_ + "; copy both again");
  return *(frozen_ = std::move(loaded));
}

std::vector<float> Program::initial_state() const {
  const Manifest& m = manifest_;
  if (parse_json(m.json).at("adapter").at("subspace") != "peft") return std::vector<float>(m.state_size);
  std::string file = fs::path(path_).replace_filename("initial.safetensors").string();
  auto held = Tensors<float>::read(file, "a state of prge", false);
  auto& state = held.vectors["state"];
  if (static_cast<int64_t>(state.size()) != m.state_size || held.text("adapter_sha256") != m.adapter_sha256)
    throw Error(file + " is not the state that the program goes on from; copy it there again");
  return state;
}

void Program::keep(const std::string& path, const Examples& examples) {
  hidden_.reset();
  try {
    hidden_ = std::make_unique<Hidden>(path, manifest_, examples);
  } catch (const std::exception&) {  // whatever is wrong with it, it is made again to the same bits
  }
  if (!hidden_) {
    auto compute = [&](auto& tokens, int64_t length) { return compute_states(tokens, length); };
    Hidden::write(path, manifest_, examples, compute, reading);
    hidden_ = std::make_unique<Hidden>(path, manifest_, examples);
  }
  frozen_.reset();
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

// Of rows that are padded as for an execution.
std::vector<float> Program::states(const Batch& rows) {
  Inputs in = collate(rows, manifest_);
  std::vector<float> kept(hidden_ ? in.tokens.size() * manifest_.hidden : 0);
  if (hidden_ && hidden_->read(rows, in.length, kept.data())) return kept;
  return compute_states(in.tokens, in.length);
}

// `frozen_rows` in one execution; the last one is filled up by repetition from its start.
std::vector<float> Program::compute_states(const std::vector<int64_t>& tokens, int64_t length) {
  const Manifest& m = manifest_;
  Runtime& below = frozen();
  std::vector<float> found;
  found.reserve(tokens.size() * m.hidden);
  size_t whole = m.frozen_rows * length;
  for (size_t start = 0; start < tokens.size(); start += whole) {
    before_each();
    size_t count = std::min(whole, tokens.size() - start);
    std::vector<int64_t> part(whole);
    for (size_t i = 0; i < whole; i++) part[i] = tokens[start + i % count];
    auto outputs = below.forward({tensor({m.frozen_rows, length}, std::move(part))}, execution_seconds);
    auto hidden = floats(outputs.at(0));
    if (hidden.size() != whole * m.hidden)
      throw Error(below.path + ": its output is not of the size that its manifest says");
    found.insert(found.end(), hidden.begin(), hidden.begin() + count * m.hidden);
  }
  return found;
}

Program::Result Program::execute(const Batch& rows, const std::vector<float>& state, int64_t seed, double lr,
                                 double eps) {
  auto hidden = states(rows);
  return execute(rows, hidden, state, seed, lr, eps);
}

Program::Result Program::execute(const Batch& rows, std::vector<float>& hidden, const std::vector<float>& state,
                                 int64_t seed, double lr, double eps) {
  before_each();
  const Manifest& m = manifest_;
  Inputs in = collate(rows, m);
  int64_t n = rows.size(), width = in.position.size() / rows.size();
  std::vector<TensorPtr> inputs = {
      executorch::extension::make_tensor_ptr({int(m.state_size)}, const_cast<float*>(state.data())),  // only read
      executorch::extension::make_tensor_ptr({int(n), int(in.length), int(m.hidden)}, hidden.data()),
      tensor({n, in.length}, std::move(in.tokens)),
      tensor({n, width}, std::move(in.position)),
      tensor(m.label_words() ? std::vector{n} : std::vector{n, width}, std::move(in.target))};
  if (!m.label_words()) inputs.push_back(tensor({n, width}, std::move(in.weight)));
  inputs.push_back(tensor({1}, std::vector<int64_t>{seed}));
  inputs.push_back(tensor({1}, std::vector<float>{static_cast<float>(lr)}));
  inputs.push_back(tensor({1}, std::vector<float>{static_cast<float>(eps)}));
  auto outputs = runtime_->forward(inputs, execution_seconds);
  Result result{floats(outputs.at(0)), floats(outputs.at(1)), {}};
  if (m.label_words()) result.scores = floats(outputs.at(2));
  if (result.state.size() != state.size() || result.losses.size() != rows.size() ||
      result.scores.size() != (m.label_words() ? rows.size() * m.labels : 0))
    throw Error(path_ + ": its outputs are not of the size that its manifest says");
  return result;
}

Program::Result Program::step(const Batch& batch, const std::vector<float>& state, int64_t seed, double lr,
                              double eps) {
  Batch rows;
  std::vector<float> once = states(batch), hidden;
  for (int64_t copy = 0; copy < manifest_.copies(); copy++) {
    rows.insert(rows.end(), batch.begin(), batch.end());
    hidden.insert(hidden.end(), once.begin(), once.end());
  }
  return step_by(manifest_, state, seed, lr, eps, [&](int64_t query_seed, double query_lr, double signed_eps) {
    return execute(rows, hidden, state, query_seed, query_lr, signed_eps);
  });
}

}  // namespace prge
