#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>

#include "internal.h"

namespace prge {
namespace {

constexpr std::string_view kZeros = "\"crc\":\"00000000\"";

[[noreturn]] void fail(const fs::path& path, const char* what) {
  throw Error(path.string() + " cannot be " + what + (errno ? std::string(": ") + std::strerror(errno) : ""));
}

// Where the checksum's digits begin in a header, or npos.
size_t crc_place(std::string_view header) {
  for (size_t at = 0; (at = header.find("\"crc\":\"", at)) != std::string_view::npos; at++)
    if (header.substr(at + 7, 9).find_first_not_of("0123456789abcdef") == 8 && header[at + 15] == '"') return at + 7;
  return std::string_view::npos;
}

}  // namespace

uint32_t crc32(std::string_view data, uint32_t before) {
  static const auto table = [] {
    std::array<uint32_t, 256> made{};
    for (uint32_t i = 0; i < 256; i++) {
      made[i] = i;
      for (int bit = 0; bit < 8; bit++) made[i] = made[i] >> 1 ^ (made[i] & 1 ? 0xEDB88320u : 0);
    }
    return made;
  }();
  uint32_t crc = ~before;
  for (unsigned char byte : data) crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8;
  return ~crc;
}

std::string hex(uint32_t number) {
  char digits[9];
  std::snprintf(digits, sizeof digits, "%08x", number);
  return digits;
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string data(std::istreambuf_iterator<char>(file), {});
  if (!file || fs::is_directory(path)) fail(path, "read");
  return data;
}

void write_file(const fs::path& path, std::string_view data) {
  std::ofstream file(path, std::ios::binary);
  file.write(data.data(), static_cast<std::streamsize>(data.size()));
  file.close();
  if (!file) fail(path, "written");
}

void replace_file(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) throw Error(to.string() + " cannot be written: " + error.message());
}

void sync_path(const fs::path& path) {
  int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  bool synced = file >= 0 && fsync(file) == 0;
  if (file >= 0) close(file);
  if (!synced) fail(path, "written");
}

std::string Tensors::bytes() const {
  std::string header = "{\"__metadata__\":{" + std::string(kZeros), data;
  for (size_t i = 0; i < metadata.names.size(); i++)
    header += ",\"" + metadata.names[i] + "\":" + metadata.items[i].dump();
  header += "}";
  for (auto& [name, vector] : vectors) {
    std::string from = std::to_string(data.size());
    data.append(reinterpret_cast<const char*>(vector.data()), 4 * vector.size());
    header += ",\"" + name + "\":{\"dtype\":\"F32\",\"shape\":[" + std::to_string(vector.size()) +
              "],\"data_offsets\":[" + from + "," + std::to_string(data.size()) + "]}";
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  uint64_t length = header.size();
  std::string all = std::string(reinterpret_cast<char*>(&length), 8) + header + data;
  return all.replace(8 + crc_place(header), 8, hex(crc32(all)));
}

Tensors Tensors::read(const std::string& path) {
  std::string all = read_file(path);
  uint64_t length = 0;
  if (all.size() >= 8) std::memcpy(&length, all.data(), 8);
  if (all.size() < 8 || length > all.size() - 8) throw Error(path + " is damaged: it is no whole safetensors file");
  std::string_view data = std::string_view(all).substr(8 + length);
  size_t place = crc_place(std::string_view(all).substr(8, length));
  if (place == std::string_view::npos) throw Error(path + " is damaged: it has no checksum");
  std::string crc = all.substr(8 + place, 8);
  if (all.replace(8 + place, 8, 8, '0'); hex(crc32(all)) != crc)
    throw Error(path + " is damaged: its checksum is another");
  try {
    Tensors found;
    Json header = Json::parse(std::string_view(all).substr(8, length));
    found.metadata = header["__metadata__"];
    for (size_t i = 0; i < header.names.size(); i++) {
      if (header.names[i] == "__metadata__") continue;
      auto& tensor = header.items[i];
      auto& offsets = tensor["data_offsets"].list();
      if (tensor["dtype"].text() != "F32" || offsets.size() != 2) throw Error("expected vectors of F32");
      uint64_t from = offsets[0].integer(), to = offsets[1].integer();
      if (from > to || to > data.size() || (to - from) % 4) throw Error("its data are missing");
      std::vector<float> numbers((to - from) / 4);
      if (!numbers.empty()) std::memcpy(numbers.data(), data.data() + from, to - from);
      found.vectors.emplace_back(header.names[i], std::move(numbers));
    }
    return found;
  } catch (const Error& e) {
    throw Error(path + " is not a safetensors file of prge's: " + e.what());
  }
}

const std::vector<float>* Tensors::find(std::string_view name) const {
  for (auto& [known, vector] : vectors)
    if (known == name) return &vector;
  return nullptr;
}

bool finite(const std::vector<float>& numbers) {
  for (float number : numbers)
    if (!std::isfinite(number)) return false;
  return true;
}

}  // namespace prge
