// What the tests of Thrift call. tests/tests/thrift has the Python code for it made by Debian's compiler.

exception NotFound {
  1: string key
}

struct Entry {
  1: string key,
  2: binary value,
  3: map<string, list<i64>> counts,
  4: bool whole
}

service Store {
  // Who answers.
  string who(),
  // What was given, in another order.
  Entry echo(1: Entry entry),
  // Always NotFound.
  Entry find(1: string key) throws (1: NotFound missing),
  // Counts the calls of this name; answered after so many milliseconds.
  i32 slow(1: string name, 2: i32 ms),
  // Counts the call, and breaks off the connection.
  i32 breakOff(1: string name),
  // The same, for a policy that lists it.
  i32 breakOffTwice(1: string name),
  // How many of this name there were.
  i32 count(1: string name),
  // So many bytes; counted as `fill`.
  binary fill(1: i32 bytes),
  // Counted, and not answered.
  oneway void note(1: string name)
}
