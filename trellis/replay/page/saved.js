// The time machine in a file of its own.

import { openFile } from "./file.js";
import { timeMachine } from "./machine.js";

openFile((data) => {
  const machine = timeMachine();
  machine.take(data);
  return machine;
});
