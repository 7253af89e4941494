// SPDX-License-Identifier: BSD-2-Clause
// elf_file.cpp - ElfFile on pread: libelf for headers and tables, libdw for .eh_frame.
#include "attach/elf_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <utility>

#include <dwarf.h>
#include <elfutils/libdw.h>
#include <elfutils/libdwelf.h>
#include <fcntl.h>
#include <gelf.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/text.h"

namespace pgmemtrace {

namespace {

// A name or version string longer than this is not one.
constexpr std::size_t kMaxString = 4096;
// A debug build of PostgreSQL has some 60 MB; anybody can run anything.
constexpr std::uint64_t kMaxFile = 1ull << 30;
constexpr std::uint64_t kMaxSegment = 64ull << 20; // or section
constexpr std::uint64_t kPage = 4096;
constexpr std::size_t kMaxEntries = 1 << 20; // of a symbol table, of .eh_frame

class File {
public:
  static Result<File> open(const std::string &path)
  {
    // O_NONBLOCK: opening a FIFO must not wait for its writer.
    File file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    struct stat st {};
    if (file.fd_ < 0 || fstat(file.fd_, &st) != 0)
      return Error{"open " + path, errno, {}};
    if (!S_ISREG(st.st_mode) || st.st_size == 0)
      return Error{"open " + path + ": not an ELF file", 0, {}};
    file.size_ = static_cast<std::uint64_t>(st.st_size);
    if (file.size_ > kMaxFile)
      return Error{"open " + path + ": larger than 1 GiB", 0, {}};
    return file;
  }
  File() = default;
  File(File &&other) noexcept : fd_(std::exchange(other.fd_, -1)), size_(other.size_) {}
  File &operator=(File &&other) noexcept
  {
    std::swap(fd_, other.fd_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~File()
  {
    if (fd_ >= 0)
      close(fd_);
  }

  int fd() const { return fd_; }
  std::uint64_t size() const { return size_; }

  // What is there now: shorter than asked for if the file was cut in the meantime.
  std::vector<std::byte> read(std::uint64_t offset, std::size_t size) const
  {
    std::vector<std::byte> bytes(size);
    std::size_t done = 0;
    while (done < size) {
      const ssize_t got =
          pread(fd_, bytes.data() + done, size - done, static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR)
        continue;
      if (got <= 0)
        break;
      done += static_cast<std::size_t>(got);
    }
    bytes.resize(done);
    return bytes;
  }

private:
  explicit File(int fd) : fd_(fd) {}
  int fd_ = -1;
  std::uint64_t size_ = 0;
};

struct ElfEnd {
  void operator()(Elf *elf) const { elf_end(elf); }
};

struct RulesEnd {
  void operator()(Dwarf_CFI *rules) const { dwarf_cfi_end(rules); }
};

template <typename T> std::optional<T> load(const std::uint8_t *&at, const std::uint8_t *end)
{
  if (static_cast<std::size_t>(end - at) < sizeof(T))
    return std::nullopt;
  T value;
  std::memcpy(&value, at, sizeof value);
  at += sizeof value;
  return value;
}

// One value of .eh_frame in the low four bits of its encoding (DW_EH_PE_*).
std::optional<std::uint64_t> load_encoded(unsigned format, const std::uint8_t *&at,
                                          const std::uint8_t *end)
{
  switch (format) {
  case DW_EH_PE_absptr:
  case DW_EH_PE_udata8:
  case DW_EH_PE_sdata8: return load<std::uint64_t>(at, end);
  case DW_EH_PE_udata4: return load<std::uint32_t>(at, end);
  case DW_EH_PE_sdata4:
    if (const auto value = load<std::int32_t>(at, end))
      return static_cast<std::uint64_t>(static_cast<std::int64_t>(*value));
    return std::nullopt;
  default: return std::nullopt;
  }
}

// How the FDEs of a CIE encode their start: the byte that belongs to 'R' in the augmentation.
unsigned pointer_encoding(const Dwarf_CIE &cie)
{
  if (cie.augmentation == nullptr || cie.augmentation[0] != 'z')
    return DW_EH_PE_absptr;
  const std::uint8_t *at = cie.augmentation_data;
  const std::uint8_t *end = at + cie.augmentation_data_size;
  for (const char *letter = cie.augmentation + 1; *letter != '\0'; ++letter) {
    if (*letter == 'S' || *letter == 'B')
      continue; // no data
    const auto byte = load<std::uint8_t>(at, end);
    if (!byte)
      return DW_EH_PE_omit;
    if (*letter == 'R')
      return *byte;
    if (*letter == 'P' && !load_encoded(*byte & 0x0f, at, end))
      return DW_EH_PE_omit;
    if (*letter != 'P' && *letter != 'L')
      return DW_EH_PE_omit;
  }
  return DW_EH_PE_absptr;
}

} // namespace

struct ElfFile::Impl {
  struct Load {
    std::uint64_t address, offset, size; // of what the file holds, not of what memory does
    unsigned flags;
    std::vector<std::byte> copy; // empty: not read yet
  };
  struct Range {
    std::uint64_t address = 0, size = 0;
    bool holds(std::uint64_t at) const { return at >= address && at - address < size; }
  };
  struct HashedName {
    std::uint32_t hash, index;
    auto operator<=>(const HashedName &) const = default;
  };
  // One symbol table, indexed by the hash of its names.
  struct SymbolTable {
    Elf_Data *data = nullptr;
    std::string_view strings;
    std::vector<HashedName> names;
    bool built = false;
  };

  struct Relocation {
    GElf_Rela rela;
    std::size_t symbols; // section number of the symbol table
    std::uint64_t address() const { return rela.r_offset; }
  };

  File file;
  std::unique_ptr<Elf, ElfEnd> elf; // reads from `file`
  GElf_Ehdr header{};
  std::vector<Load> loads;
  std::vector<std::pair<Range, Range>> writable; // in the file, in memory
  Range relro;
  SymbolTable dynamic;           // .dynsym
  SymbolTable full;              // .symtab: mostly stripped
  std::vector<Symbol> functions; // by .eh_frame, sorted by address
  bool functions_built = false;
  std::unique_ptr<Dwarf_CFI, RulesEnd> rules; // from `elf`
  bool rules_read = false;
  std::vector<Relocation> relocations; // sorted by address; empty: not read yet

  Result<> read_headers(const std::string &path);
  Result<> read_segments(const std::string &path);
  Elf_Scn *section(std::string_view name) const;
  Elf_Scn *section_of_type(std::uint32_t type) const;
  std::string_view strings(std::size_t index) const;
  bool load_symbols(SymbolTable &table, std::uint32_t section_type) const;
  template <typename Use> void each_symbol(const SymbolTable &table, Use use) const;
  const SymbolTable &built(SymbolTable &table, std::uint32_t section_type);
  std::string_view name_of(const SymbolTable &table, const GElf_Sym &symbol) const;
  std::optional<Symbol> find(const SymbolTable &table, std::string_view name,
                             unsigned char type) const;
  std::optional<Symbol> find(std::string_view name, unsigned char type);
  void build_functions();
  void add_function(const Dwarf_FDE &fde, unsigned encoding, std::uint64_t section_address,
                    const Elf_Data &data);
  void read_relocations();
  const std::vector<Relocation> &all_relocations();
  const Relocation *relocation_at(std::uint64_t address);
  std::string_view linked_by(const Relocation &relocation) const;
  std::span<const std::byte> contents(Load &load);
  std::optional<std::string> find_string(const Load &load, std::string_view prefix) const;
};

Result<> ElfFile::Impl::read_headers(const std::string &path)
{
  const Error not_elf{"read " + path + ": not a 64-bit little-endian ELF executable", 0, {}};
  if (!elf || elf_kind(elf.get()) != ELF_K_ELF || gelf_getclass(elf.get()) != ELFCLASS64 ||
      gelf_getehdr(elf.get(), &header) == nullptr || header.e_ident[EI_DATA] != ELFDATA2LSB)
    return not_elf;
  return Ok{};
}

Result<> ElfFile::Impl::read_segments(const std::string &path)
{
  const Error not_elf{"read " + path + ": not an ELF executable", 0, {}};
  std::size_t count = 0;
  if (elf_getphdrnum(elf.get(), &count) != 0)
    return not_elf;
  const std::uint64_t size = file.size();
  // Linkers put no byte into two segments.  Thousands of segments that do would each be copied.
  std::uint64_t left = size;
  for (std::size_t i = 0; i < count; ++i) {
    GElf_Phdr phdr;
    if (gelf_getphdr(elf.get(), static_cast<int>(i), &phdr) == nullptr)
      return not_elf;
    if (phdr.p_type == PT_GNU_RELRO)
      relro = {phdr.p_vaddr, phdr.p_memsz};
    if (phdr.p_type == PT_LOAD && (phdr.p_flags & PF_W) != 0)
      writable.push_back({{phdr.p_vaddr, phdr.p_filesz}, {phdr.p_vaddr, phdr.p_memsz}});
    if (phdr.p_type != PT_LOAD || phdr.p_filesz == 0)
      continue;
    if (phdr.p_offset > size || phdr.p_filesz > size - phdr.p_offset ||
        phdr.p_vaddr > UINT64_MAX - phdr.p_filesz)
      return Error{"read " + path + ": the file is cut short", 0, {}};
    if (phdr.p_filesz > left)
      return Error{"read " + path + ": its segments overlap", 0, {}};
    left -= phdr.p_filesz;
    loads.push_back({phdr.p_vaddr, phdr.p_offset, phdr.p_filesz, phdr.p_flags, {}});
  }
  if (loads.empty())
    return not_elf;
  return Ok{};
}

Elf_Scn *ElfFile::Impl::section(std::string_view name) const
{
  std::size_t names = 0;
  if (elf_getshdrstrndx(elf.get(), &names) != 0)
    return nullptr;
  for (Elf_Scn *scn = nullptr; (scn = elf_nextscn(elf.get(), scn)) != nullptr;) {
    GElf_Shdr shdr;
    if (gelf_getshdr(scn, &shdr) == nullptr)
      continue;
    const char *found = elf_strptr(elf.get(), names, shdr.sh_name);
    if (found != nullptr && found == name)
      return scn;
  }
  return nullptr;
}

Elf_Scn *ElfFile::Impl::section_of_type(std::uint32_t type) const
{
  for (Elf_Scn *scn = nullptr; (scn = elf_nextscn(elf.get(), scn)) != nullptr;) {
    GElf_Shdr shdr;
    if (gelf_getshdr(scn, &shdr) != nullptr && shdr.sh_type == type)
      return scn;
  }
  return nullptr;
}

// The contents of a string table, with the guarantee that they end with a NUL.
std::string_view ElfFile::Impl::strings(std::size_t index) const
{
  Elf_Scn *scn = elf_getscn(elf.get(), index);
  GElf_Shdr shdr;
  if (scn == nullptr || gelf_getshdr(scn, &shdr) == nullptr || shdr.sh_size > kMaxSegment)
    return {};
  const Elf_Data *data = elf_rawdata(scn, nullptr);
  if (data == nullptr || data->d_buf == nullptr)
    return {};
  const std::string_view all(static_cast<const char *>(data->d_buf), data->d_size);
  const auto last = all.rfind('\0');
  return last == std::string_view::npos ? std::string_view{} : all.substr(0, last + 1);
}

std::string_view ElfFile::Impl::name_of(const SymbolTable &table, const GElf_Sym &symbol) const
{
  if (symbol.st_name >= table.strings.size())
    return {};
  const auto rest = table.strings.substr(symbol.st_name);
  return rest.substr(0, rest.find('\0'));
}

bool ElfFile::Impl::load_symbols(SymbolTable &table, std::uint32_t section_type) const
{
  Elf_Scn *scn = section_of_type(section_type);
  GElf_Shdr shdr;
  if (scn == nullptr || gelf_getshdr(scn, &shdr) == nullptr || shdr.sh_size > kMaxSegment)
    return false;
  table.data = elf_getdata(scn, nullptr);
  table.strings = strings(shdr.sh_link);
  return table.data != nullptr && table.data->d_type == ELF_T_SYM;
}

// use(index, symbol, name) for each symbol that the file itself has.
template <typename Use> void ElfFile::Impl::each_symbol(const SymbolTable &table, Use use) const
{
  const std::size_t count = std::min(table.data->d_size / sizeof(Elf64_Sym), kMaxEntries);
  for (std::size_t i = 1; i < count; ++i) {
    GElf_Sym symbol;
    if (gelf_getsym(table.data, static_cast<int>(i), &symbol) == nullptr)
      break;
    if (symbol.st_shndx == SHN_UNDEF)
      continue;
    const auto name = name_of(table, symbol);
    if (!name.empty() && name.size() <= kMaxString)
      use(static_cast<std::uint32_t>(i), symbol, name);
  }
}

const ElfFile::Impl::SymbolTable &ElfFile::Impl::built(SymbolTable &table,
                                                       std::uint32_t section_type)
{
  if (std::exchange(table.built, true) || !load_symbols(table, section_type))
    return table;
  each_symbol(table, [&](std::uint32_t index, const GElf_Sym &symbol, std::string_view name) {
    const auto type = GELF_ST_TYPE(symbol.st_info);
    if (type == STT_FUNC || type == STT_OBJECT)
      table.names.push_back(
          {static_cast<std::uint32_t>(std::hash<std::string_view>{}(name)), index});
  });
  std::sort(table.names.begin(), table.names.end());
  table.names.shrink_to_fit();
  return table;
}

// A global symbol before a static one of the same name; of several statics the first.
std::optional<ElfFile::Symbol> ElfFile::Impl::find(const SymbolTable &table, std::string_view name,
                                                   unsigned char type) const
{
  const auto hash = static_cast<std::uint32_t>(std::hash<std::string_view>{}(name));
  std::optional<Symbol> found;
  for (auto it = std::lower_bound(table.names.begin(), table.names.end(), HashedName{hash, 0});
       it != table.names.end() && it->hash == hash; ++it) {
    GElf_Sym symbol;
    if (gelf_getsym(table.data, static_cast<int>(it->index), &symbol) == nullptr ||
        GELF_ST_TYPE(symbol.st_info) != type || name_of(table, symbol) != name)
      continue;
    const bool global = GELF_ST_BIND(symbol.st_info) != STB_LOCAL;
    if (global || !found)
      found = Symbol{symbol.st_value, symbol.st_size};
    if (global)
      break;
  }
  return found;
}

std::optional<ElfFile::Symbol> ElfFile::Impl::find(std::string_view name, unsigned char type)
{
  if (auto symbol = find(built(dynamic, SHT_DYNSYM), name, type))
    return symbol;
  return find(built(full, SHT_SYMTAB), name, type);
}

void ElfFile::Impl::add_function(const Dwarf_FDE &fde, unsigned encoding,
                                 std::uint64_t section_address, const Elf_Data &data)
{
  const std::uint8_t *at = fde.start;
  const auto place = section_address +
                     static_cast<std::uint64_t>(at - static_cast<const std::uint8_t *>(data.d_buf));
  auto start = load_encoded(encoding & 0x0f, at, fde.end);
  const auto size = load_encoded(encoding & 0x07, at, fde.end); // the range is never signed
  if (!start || !size || *size == 0)
    return;
  if ((encoding & 0x70) == DW_EH_PE_pcrel)
    *start += place;
  else if ((encoding & 0x70) != DW_EH_PE_absptr)
    return;
  functions.push_back({*start, *size});
}

void ElfFile::Impl::build_functions()
{
  if (std::exchange(functions_built, true))
    return;
  Elf_Scn *scn = section(".eh_frame");
  GElf_Shdr shdr;
  if (scn == nullptr || gelf_getshdr(scn, &shdr) == nullptr || shdr.sh_size > kMaxSegment)
    return;
  Elf_Data *data = elf_rawdata(scn, nullptr);
  if (data == nullptr || data->d_buf == nullptr)
    return;

  // Ascending by offset: CIEs come before the FDEs that use them.
  std::vector<std::pair<Dwarf_Off, unsigned>> encodings;
  Dwarf_CFI_Entry entry;
  Dwarf_Off next = 0;
  for (Dwarf_Off offset = 0;; offset = next) {
    const int status = dwarf_next_cfi(header.e_ident, data, true, offset, &next, &entry);
    if (status == 1 || next <= offset || functions.size() >= kMaxEntries)
      break;
    if (status != 0)
      continue; // one bad entry; `next` is the one behind it
    if (dwarf_cfi_cie_p(&entry)) {
      encodings.emplace_back(offset, pointer_encoding(entry.cie));
      continue;
    }
    const auto cie = std::lower_bound(encodings.begin(), encodings.end(),
                                      std::pair<Dwarf_Off, unsigned>{entry.fde.CIE_pointer, 0});
    if (cie != encodings.end() && cie->first == entry.fde.CIE_pointer &&
        cie->second != DW_EH_PE_omit)
      add_function(entry.fde, cie->second, shdr.sh_addr, *data);
  }
  std::sort(functions.begin(), functions.end(),
            [](const Symbol &a, const Symbol &b) { return a.address < b.address; });
  functions.shrink_to_fit();
}

void ElfFile::Impl::read_relocations()
{
  for (Elf_Scn *scn = nullptr; (scn = elf_nextscn(elf.get(), scn)) != nullptr;) {
    GElf_Shdr shdr;
    if (gelf_getshdr(scn, &shdr) == nullptr || shdr.sh_type != SHT_RELA ||
        (shdr.sh_flags & SHF_ALLOC) == 0 || shdr.sh_size > kMaxSegment)
      continue;
    Elf_Data *data = elf_getdata(scn, nullptr);
    if (data == nullptr || data->d_type != ELF_T_RELA)
      continue;
    const std::size_t count = std::min(data->d_size / sizeof(Elf64_Rela), kMaxEntries);
    for (std::size_t i = 0; i < count; ++i) {
      GElf_Rela rela;
      if (gelf_getrela(data, static_cast<int>(i), &rela) != nullptr)
        relocations.push_back({rela, shdr.sh_link});
    }
  }
  std::ranges::stable_sort(relocations, {}, &Relocation::address);
}

const std::vector<ElfFile::Impl::Relocation> &ElfFile::Impl::all_relocations()
{
  if (relocations.empty())
    read_relocations();
  return relocations;
}

const ElfFile::Impl::Relocation *ElfFile::Impl::relocation_at(std::uint64_t address)
{
  const auto &all = all_relocations();
  const auto found = std::ranges::lower_bound(all, address, {}, &Relocation::address);
  return found == all.end() || found->address() != address ? nullptr : &*found;
}

// Name of its symbol.
std::string_view ElfFile::Impl::linked_by(const Relocation &relocation) const
{
  Elf_Scn *scn = elf_getscn(elf.get(), relocation.symbols);
  GElf_Shdr shdr;
  GElf_Sym symbol;
  if (scn == nullptr || gelf_getshdr(scn, &shdr) == nullptr || shdr.sh_type != SHT_DYNSYM ||
      gelf_getsym(elf_getdata(scn, nullptr), static_cast<int>(GELF_R_SYM(relocation.rela.r_info)),
                  &symbol) == nullptr)
    return {};
  const auto names = strings(shdr.sh_link);
  if (symbol.st_name >= names.size())
    return {};
  const auto rest = names.substr(symbol.st_name);
  return rest.substr(0, std::min(rest.find('\0'), kMaxString));
}

std::span<const std::byte> ElfFile::Impl::contents(Load &load)
{
  if (load.copy.empty() && load.size <= kMaxSegment)
    load.copy = file.read(load.offset, load.size);
  return load.copy;
}

// In pieces: what is searched is as a rule not looked at again.
std::optional<std::string> ElfFile::Impl::find_string(const Load &load,
                                                      std::string_view prefix) const
{
  constexpr std::size_t kStep = 256 << 10;
  for (std::uint64_t start = 0; start < load.size; start += kStep) {
    const std::uint64_t before = start == 0 ? 0 : 1; // the NUL of the string before
    const auto bytes = file.read(load.offset + start - before,
                                 std::min(kStep + kMaxString, load.size - start) + before);
    const std::string_view text(reinterpret_cast<const char *>(bytes.data()), bytes.size());
    for (auto at = text.find(prefix, before); at < kStep + before; at = text.find(prefix, at + 1)) {
      if (at > 0 && text[at - 1] != '\0')
        continue;
      const auto rest = text.substr(at, kMaxString);
      if (const auto end = rest.find('\0'); end != std::string_view::npos)
        return std::string(rest.substr(0, end));
    }
  }
  return std::nullopt;
}

ElfFile::ElfFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ElfFile::ElfFile(ElfFile &&) noexcept = default;
ElfFile &ElfFile::operator=(ElfFile &&) noexcept = default;
ElfFile::~ElfFile() = default;

Result<ElfFile> ElfFile::open(const std::string &path)
{
  auto file = open_debug_file(path);
  if (file)
    if (auto read = file->impl_->read_segments(path); !read)
      return read.error();
  return file;
}

Result<ElfFile> ElfFile::open_debug_file(const std::string &path)
{
  elf_version(EV_CURRENT);
  auto file = File::open(path);
  if (!file)
    return file.error();
  auto impl = std::make_unique<Impl>();
  impl->file = std::move(*file);
  impl->elf.reset(elf_begin(impl->file.fd(), ELF_C_READ, nullptr));
  if (auto read = impl->read_headers(path); !read)
    return read.error();
  return ElfFile(std::move(impl));
}

ElfFile::Machine ElfFile::machine() const
{
  switch (impl_->header.e_machine) {
  case EM_X86_64: return Machine::x86_64;
  case EM_AARCH64: return Machine::aarch64;
  default: return Machine::other;
  }
}

std::string ElfFile::build_id() const
{
  const void *bytes = nullptr;
  const ssize_t size = dwelf_elf_gnu_build_id(impl_->elf.get(), &bytes);
  if (size <= 0 || size > 64)
    return {};
  return hex({static_cast<const std::byte *>(bytes), static_cast<std::size_t>(size)});
}

std::optional<ElfFile::Symbol> ElfFile::function(std::string_view name) const
{
  return impl_->find(name, STT_FUNC);
}

std::optional<ElfFile::Symbol> ElfFile::object(std::string_view name) const
{
  return impl_->find(name, STT_OBJECT);
}

std::vector<ElfFile::NamedFunction> ElfFile::functions() const
{
  std::vector<NamedFunction> found;
  Impl::SymbolTable table;
  if (!impl_->load_symbols(table, SHT_SYMTAB) && !impl_->load_symbols(table, SHT_DYNSYM))
    return found;
  impl_->each_symbol(table, [&](std::uint32_t, const GElf_Sym &symbol, std::string_view name) {
    const auto type = GELF_ST_TYPE(symbol.st_info);
    if ((type == STT_FUNC || type == STT_GNU_IFUNC) && symbol.st_shndx != SHN_ABS)
      found.push_back(
          {{symbol.st_value, symbol.st_size}, name, GELF_ST_BIND(symbol.st_info) != STB_LOCAL});
  });
  return found;
}

std::optional<ElfFile::Symbol> ElfFile::bounds(std::uint64_t address) const
{
  impl_->build_functions();
  auto after = std::upper_bound(
      impl_->functions.begin(), impl_->functions.end(), address,
      [](std::uint64_t wanted, const Symbol &function) { return wanted < function.address; });
  if (after == impl_->functions.begin())
    return std::nullopt;
  const Symbol &function = *std::prev(after);
  if (address - function.address >= function.size)
    return std::nullopt;
  return function;
}

std::span<const ElfFile::Symbol> ElfFile::compiled_functions() const
{
  impl_->build_functions();
  return impl_->functions;
}

std::span<const std::byte> ElfFile::bytes(std::uint64_t address, std::size_t size) const
{
  for (auto &load : impl_->loads) {
    if (address < load.address || address - load.address >= load.size)
      continue;
    const std::uint64_t skip = address - load.address;
    const auto all = impl_->contents(load);
    return skip < all.size() ? all.subspan(skip).first(std::min(size, all.size() - skip))
                             : std::span<const std::byte>{};
  }
  return {};
}

std::string_view ElfFile::linked_at(std::uint64_t address) const
{
  const auto *relocation = impl_->relocation_at(address);
  return relocation ? impl_->linked_by(*relocation) : std::string_view();
}

std::optional<std::uint64_t> ElfFile::pointer_to(std::string_view symbol) const
{
  for (const auto &relocation : impl_->all_relocations())
    if (impl_->linked_by(relocation) == symbol)
      return relocation.address();
  return std::nullopt;
}

// The addend of R_*_RELATIVE, which has no symbol; without a relocation (an executable with fixed
// addresses, packed relocations) what the file holds.
std::optional<std::uint64_t> ElfFile::pointer_at(std::uint64_t address) const
{
  if (const auto *relocation = impl_->relocation_at(address)) {
    if (GELF_R_SYM(relocation->rela.r_info) != 0)
      return std::nullopt;
    return static_cast<std::uint64_t>(relocation->rela.r_addend);
  }
  std::uint64_t value = 0;
  const auto held = bytes(address, sizeof value);
  if (held.size() != sizeof value)
    return std::nullopt;
  std::memcpy(&value, held.data(), sizeof value);
  return value;
}

std::vector<ElfFile::Segment> ElfFile::executable_segments() const
{
  std::vector<Segment> segments;
  for (auto &load : impl_->loads)
    if ((load.flags & PF_X) != 0)
      segments.push_back({load.address, impl_->contents(load)});
  return segments;
}

ElfFile::Storage ElfFile::storage(std::uint64_t address) const
{
  if (impl_->relro.holds(address))
    return Storage::none;
  for (const auto &[file, memory] : impl_->writable)
    if (memory.holds(address))
      return file.holds(address) ? Storage::initialized : Storage::zeroed;
  return Storage::none;
}

std::optional<std::uint64_t> ElfFile::file_offset(std::uint64_t address) const
{
  for (const auto &load : impl_->loads)
    if (address >= load.address && address - load.address < load.size)
      return load.offset + (address - load.address);
  return std::nullopt;
}

std::optional<std::uint64_t> ElfFile::link_address(std::uint64_t file_offset) const
{
  for (const auto &load : impl_->loads) {
    const std::uint64_t before = std::min(load.address, load.offset) & (kPage - 1);
    if ((load.flags & PF_X) != 0 && file_offset >= load.offset - before &&
        file_offset - (load.offset - before) < load.size + before)
      return load.address - before + (file_offset - (load.offset - before));
  }
  return std::nullopt;
}

std::optional<std::string> ElfFile::find_string(std::string_view prefix) const
{
  for (const auto &load : impl_->loads)
    if ((load.flags & PF_W) == 0)
      if (auto found = impl_->find_string(load, prefix))
        return found;
  return std::nullopt;
}

bool ElfFile::exports(std::string_view name) const
{
  const auto &table = impl_->built(impl_->dynamic, SHT_DYNSYM);
  return impl_->find(table, name, STT_FUNC) || impl_->find(table, name, STT_OBJECT);
}

bool ElfFile::exports_function_at(std::uint64_t address) const
{
  const auto &table = impl_->built(impl_->dynamic, SHT_DYNSYM);
  return std::ranges::any_of(table.names, [&](const Impl::HashedName &name) {
    GElf_Sym symbol;
    return gelf_getsym(table.data, static_cast<int>(name.index), &symbol) != nullptr &&
           symbol.st_value == address && GELF_ST_TYPE(symbol.st_info) == STT_FUNC;
  });
}

std::uint64_t ElfFile::entry_address() const { return impl_->header.e_entry; }

// Without that section libdw looks for the segment, and has libelf read the whole file for it,
// which then forgets to free the sections that it read before (elf_rawfile and elf_end, elfutils
// 0.192).
Dwarf_CFI *ElfFile::unwind_rules() const
{
  if (!std::exchange(impl_->rules_read, true) && impl_->section(".eh_frame") != nullptr)
    impl_->rules.reset(dwarf_getcfi_elf(impl_->elf.get()));
  return impl_->rules.get();
}

::Elf *ElfFile::handle() const { return impl_->elf.get(); }

void ElfFile::drop_bytes() const
{
  for (auto &load : impl_->loads)
    load.copy = {};
  impl_->relocations = {};
  impl_->rules.reset();
  impl_->rules_read = false;
}

} // namespace pgmemtrace
