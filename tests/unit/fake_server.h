// SPDX-License-Identifier: BSD-2-Clause
// fake_server.h - fixtures/fake_postgres.c as a process that a test starts, commands and ends.
#pragma once

#include <array>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

#include <sys/wait.h>
#include <unistd.h>

namespace pgmemtrace::test {

class DataDirectory {
public:
  explicit DataDirectory(const std::string &major = "15")
  {
    std::string name = (std::filesystem::temp_directory_path() / "pgmt_servers_XXXXXX").string();
    path_ = mkdtemp(name.data());
    std::ofstream(path_ / "PG_VERSION") << major << '\n';
  }
  DataDirectory(const DataDirectory &) = delete;
  DataDirectory &operator=(const DataDirectory &) = delete;
  ~DataDirectory() { std::filesystem::remove_all(path_); }
  std::string path() const { return path_.string(); }

private:
  std::filesystem::path path_;
};

// A running fake server; ends with its object, children included.
class FakeServer {
public:
  FakeServer(const DataDirectory &data, const std::string &name, const std::string &mode = {},
             const std::string &executable = PGMT_FAKE_POSTGRES)
  {
    std::array<int, 2> in{};
    std::array<int, 2> out{};
    if (pipe(in.data()) != 0 || pipe(out.data()) != 0)
      throw std::runtime_error("pipe");
    pid_ = fork();
    if (pid_ == 0) {
      dup2(in[0], 0);
      dup2(out[1], 1);
      for (const int fd : {in[0], in[1], out[0], out[1]})
        close(fd);
      execl(executable.c_str(), "fake", data.path().c_str(), name.c_str(),
            mode.empty() ? nullptr : mode.c_str(), nullptr);
      _exit(127);
    }
    close(in[0]);
    close(out[1]);
    commands_ = fdopen(in[1], "w");
    answers_ = fdopen(out[0], "r");
    answer();
  }
  FakeServer(const FakeServer &) = delete;
  FakeServer &operator=(const FakeServer &) = delete;
  ~FakeServer()
  {
    end();
    fclose(commands_);
    fclose(answers_);
  }

  pid_t pid() const { return pid_; }
  std::string ask(const std::string &command)
  {
    fprintf(commands_, "%s\n", command.c_str());
    fflush(commands_);
    return answer();
  }
  pid_t start(const std::string &kind) { return std::stoi(ask(kind)); }
  void end()
  {
    if (pid_ <= 0)
      return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

private:
  std::string answer()
  {
    std::array<char, 128> line{};
    return fgets(line.data(), line.size(), answers_) == nullptr ? std::string() : line.data();
  }

  pid_t pid_ = -1;
  FILE *commands_ = nullptr;
  FILE *answers_ = nullptr;
};

} // namespace pgmemtrace::test
